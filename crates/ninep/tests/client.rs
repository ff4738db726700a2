// SPDX-License-Identifier: Apache-2.0
//! A client that keeps to no rule against the server, over a socket pair.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use inn_ninep::connection::serve;
use inn_ninep::files::Tree;
use inn_ninep::wire::{Reader, Writer};

const ERROR: u8 = 7;

/// A folder with `root` that is served, and a client.
struct Client {
    dir: PathBuf,
    stream: UnixStream,
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Client {
    fn start() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("inn-9p-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(dir.join("root/folder")).unwrap();
        fs::write(dir.join("secret"), "secret").unwrap();
        fs::write(dir.join("root/file"), "content").unwrap();
        let tree = Arc::new(Tree::new(&dir.join("root"), false).unwrap());
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || serve::<UnixStream>(&theirs, tree));
        let mut client = Self { dir, stream: ours };
        let mut body = Writer::default();
        body.u32(65536).text(b"9P2000.L");
        client.ask(100, body).unwrap();
        let mut body = Writer::default();
        body.u32(0).u32(u32::MAX).text(b"").text(b"").u32(u32::MAX);
        client.ask(104, body).unwrap();
        client
    }

    /// Sends a message; the body of the answer, or its errno.
    fn ask(&mut self, kind: u8, body: Writer) -> Result<Vec<u8>, i32> {
        let mut frame = Writer::default();
        let size = u32::try_from(7 + body.len()).unwrap();
        frame.u32(size).u8(kind).u16(5).raw(&body.into_bytes());
        self.stream.write_all(&frame.into_bytes()).unwrap();
        let mut header = [0; 7];
        self.stream.read_exact(&mut header).unwrap();
        let size = u32::from_le_bytes(header[..4].try_into().unwrap());
        assert_eq!(header[5..], [5, 0]);
        let mut body = vec![0; size as usize - 7];
        self.stream.read_exact(&mut body).unwrap();
        if header[4] == ERROR {
            return Err(Reader::new(&body).u32().unwrap().try_into().unwrap());
        }
        assert_eq!(header[4], kind + 1);
        Ok(body)
    }

    /// Walks from the root; the number of names that were found.
    fn walk(&mut self, new: u32, names: &[&[u8]]) -> Result<u16, i32> {
        let mut body = Writer::default();
        body.u32(0).u32(new).u16(names.len().try_into().unwrap());
        for name in names {
            body.text(name);
        }
        let answer = self.ask(110, body)?;
        Ok(Reader::new(&answer).u16().unwrap())
    }

    fn open(&mut self, fid: u32, flags: i32) -> Result<Vec<u8>, i32> {
        let mut body = Writer::default();
        body.u32(fid).u32(flags.try_into().unwrap());
        self.ask(12, body)
    }

    fn read(&mut self, fid: u32) -> Result<Vec<u8>, i32> {
        let mut body = Writer::default();
        body.u32(fid).u64(0).u32(1 << 20);
        let answer = self.ask(116, body)?;
        Ok(Reader::new(&answer).data().unwrap().to_vec())
    }

    fn write(&mut self, fid: u32, data: &[u8]) -> Result<Vec<u8>, i32> {
        let mut body = Writer::default();
        body.u32(fid).u64(0);
        body.u32(data.len().try_into().unwrap()).raw(data);
        self.ask(118, body)
    }

    /// A message that begins with a fid and a name; the rest follows.
    fn named(&mut self, kind: u8, fid: u32, name: &[u8], rest: &[u32]) -> Result<Vec<u8>, i32> {
        let mut body = Writer::default();
        body.u32(fid).text(name);
        for number in rest {
            body.u32(*number);
        }
        self.ask(kind, body)
    }

    fn list(&mut self, fid: u32) -> Vec<Vec<u8>> {
        let (mut names, mut offset) = (Vec::new(), 0);
        loop {
            let mut body = Writer::default();
            body.u32(fid).u64(offset).u32(512);
            let answer = self.ask(40, body).unwrap();
            let data = Reader::new(&answer).data().unwrap().to_vec();
            if data.is_empty() {
                return names;
            }
            let mut entries = Reader::new(&data);
            while entries.end().is_err() {
                entries.bytes(13).unwrap();
                offset = entries.u64().unwrap();
                entries.u8().unwrap();
                names.push(entries.text().unwrap().to_vec());
            }
        }
    }
}

#[test]
fn read_write_create_and_rename() {
    let mut client = Client::start();
    assert_eq!(client.walk(1, &[b"file"]), Ok(1));
    client.open(1, libc::O_RDWR).unwrap();
    assert_eq!(client.read(1).unwrap(), b"content");
    client.write(1, b"CON").unwrap();
    assert_eq!(client.read(1).unwrap(), b"CONtent");
    client.walk(2, &[b"folder"]).unwrap();
    let flags = u32::try_from(libc::O_RDWR | libc::O_EXCL).unwrap();
    client.named(14, 2, b"new", &[flags, 0o640, 0]).unwrap();
    client.write(2, b"text").unwrap();
    let made = client.dir.join("root/folder/new");
    assert_eq!(fs::read(&made).unwrap(), b"text");
    assert_eq!(fs::metadata(&made).unwrap().mode() & 0o7777, 0o640);
    client.walk(3, &[b"folder"]).unwrap();
    let mut body = Writer::default();
    body.u32(3).text(b"new").u32(0).text(b"moved");
    client.ask(74, body).unwrap();
    assert_eq!(fs::read(client.dir.join("root/moved")).unwrap(), b"text");
    client.named(76, 0, b"moved", &[0]).unwrap();
    assert!(!client.dir.join("root/moved").exists());
    client.named(72, 0, b"made", &[0o700, 0]).unwrap();
    assert_eq!(client.named(76, 0, b"made", &[0]), Err(libc::EISDIR));
    let flag = libc::AT_REMOVEDIR.try_into().unwrap();
    client.named(76, 0, b"made", &[flag]).unwrap();
    let mut body = Writer::default();
    body.u32(1);
    client.ask(120, body).unwrap();
    assert_eq!(client.read(1), Err(libc::EBADF));
}

#[test]
fn there_is_no_way_out() {
    let mut client = Client::start();
    for name in [
        &b".."[..],
        b"../secret",
        b"/etc",
        b".",
        b"",
        b"folder/../../secret",
    ] {
        assert_eq!(client.walk(1, &[name]), Err(libc::EINVAL), "{name:?}");
        let made = client.named(14, 0, name, &[1, 0o600, 0]);
        assert_eq!(made, Err(libc::EINVAL));
        assert_eq!(client.named(72, 0, name, &[0o700, 0]), Err(libc::EINVAL));
        assert_eq!(client.named(76, 0, name, &[0]), Err(libc::EINVAL));
        let mut body = Writer::default();
        body.u32(0).text(b"file").u32(0).text(name);
        assert_eq!(client.ask(74, body), Err(libc::EINVAL));
    }
    // Links of the host's and of the client's own are not followed.
    symlink("../secret", client.dir.join("root/link")).unwrap();
    symlink("..", client.dir.join("root/up")).unwrap();
    let mut body = Writer::default();
    body.u32(0).text(b"own").text(b"/etc").u32(0);
    client.ask(16, body).unwrap();
    assert_eq!(client.walk(1, &[b"link"]), Ok(1));
    assert_eq!(client.open(1, libc::O_RDONLY), Err(libc::ENXIO));
    assert_eq!(client.walk(2, &[b"up", b"secret"]), Ok(1));
    assert_eq!(client.walk(3, &[b"own", b"passwd"]), Ok(1));
    assert_eq!(client.open(2, libc::O_RDONLY), Err(libc::EBADF));
    // Creating does not write through a link either.
    assert_eq!(
        client.named(14, 0, b"link", &[1, 0o600, 0]),
        Err(libc::ELOOP)
    );
    assert_eq!(fs::read(client.dir.join("secret")).unwrap(), b"secret");
    // What the client reads of the link is its text.
    let mut body = Writer::default();
    body.u32(1);
    let answer = client.ask(22, body).unwrap();
    assert_eq!(Reader::new(&answer).text().unwrap(), b"../secret");
}

#[test]
fn pipes_and_devices_are_not_opened() {
    let mut client = Client::start();
    let pipe = client.dir.join("root/pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    client.walk(1, &[b"pipe"]).unwrap();
    assert_eq!(client.open(1, libc::O_RDONLY), Err(libc::ENXIO));
    let made = client.named(14, 0, b"pipe", &[0, 0o600, 0]);
    assert_eq!(made, Err(libc::ENXIO));
    // Tmknod
    assert_eq!(client.named(18, 0, b"x", &[0]), Err(libc::EOPNOTSUPP));
}

#[test]
fn folders_with_strange_and_many_names() {
    let mut client = Client::start();
    let odd = std::ffi::OsStr::from_bytes(b"\xff\xfe");
    fs::write(client.dir.join("root").join(odd), "").unwrap();
    let many = client.dir.join("root/folder");
    for number in 0..1000 {
        fs::write(many.join(format!("{number:04}")), "").unwrap();
    }
    client.walk(1, &[]).unwrap();
    client.open(1, libc::O_RDONLY).unwrap();
    assert!(client.list(1).contains(&b"\xff\xfe".to_vec()));
    client.walk(2, &[b"folder"]).unwrap();
    client.open(2, libc::O_RDONLY).unwrap();
    assert_eq!(client.list(2).len(), 1002);
    // From the start it is as it is now.
    fs::write(many.join("later"), "").unwrap();
    assert_eq!(client.list(2).len(), 1003);
}

#[test]
fn attributes() {
    let mut client = Client::start();
    client.walk(1, &[b"file"]).unwrap();
    let change = |valid: u32, size: u64, modified: (u64, u64)| {
        let mut body = Writer::default();
        body.u32(1).u32(valid).u32(0o600).u32(0).u32(0).u64(size);
        body.u64(0).u64(0).u64(modified.0).u64(modified.1);
        body
    };
    client
        .ask(26, change(1 | 8 | 0x120, 3, (1_000_000_000, 5)))
        .unwrap();
    let stat = fs::metadata(client.dir.join("root/file")).unwrap();
    assert_eq!(stat.permissions().mode() & 0o7777, 0o600);
    assert_eq!(
        (stat.len(), stat.mtime(), stat.mtime_nsec()),
        (3, 1_000_000_000, 5)
    );
    let mut body = Writer::default();
    body.u32(1).u64(0x7ff);
    let answer = client.ask(24, body).unwrap();
    let mut answer = Reader::new(&answer);
    assert_eq!(answer.u64(), Ok(0x7ff));
    answer.bytes(13).unwrap();
    assert_eq!(answer.u32().unwrap(), stat.mode());
    // What is so already, to the second, changes nothing, not even the change time.
    client
        .ask(26, change(0x120, 0, (1_000_000_000, 0)))
        .unwrap();
    let same = fs::metadata(client.dir.join("root/file")).unwrap();
    assert_eq!(
        (same.mtime_nsec(), same.ctime_nsec()),
        (5, stat.ctime_nsec())
    );
    // UTIME_NOW and others hidden in the nanoseconds.
    let now = change(0x120, 0, (0, 0x3fff_ffff));
    assert_eq!(client.ask(26, now), Err(libc::EINVAL));
}

#[test]
fn locks_are_those_of_the_host() {
    let mut client = Client::start();
    client.walk(1, &[b"file"]).unwrap();
    client.open(1, libc::O_RDWR).unwrap();
    client.walk(2, &[b"file"]).unwrap();
    client.open(2, libc::O_RDWR).unwrap();
    let mut lock = |fid: u32, kind: u8| {
        let mut body = Writer::default();
        body.u32(fid)
            .u8(kind)
            .u32(0)
            .u64(0)
            .u64(0)
            .u32(1)
            .text(b"c");
        client.ask(52, body).unwrap()
    };
    assert_eq!(lock(1, 1), [0]);
    assert_eq!(lock(2, 1), [1]);
    assert_eq!(lock(1, 2), [0]);
    assert_eq!(lock(2, 0), [0]);
}

#[test]
fn nonsense_ends_only_its_connection() {
    for bytes in [&[0u8; 7][..], &[0xff; 64], b"\x06\0\0\0\x64\0\0"] {
        let mut client = Client::start();
        client.stream.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        client.stream.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"");
    }
    let mut client = Client::start();
    assert_eq!(client.ask(200, Writer::default()), Err(libc::EOPNOTSUPP));
    assert_eq!(client.ask(110, Writer::default()), Err(libc::EINVAL));
    assert_eq!(client.walk(1, &[b"file"]), Ok(1));
}
