// SPDX-License-Identifier: Apache-2.0
//! A client whose messages are any bytes: for the fuzzer, and for the test that
//! plays what it found.

use std::cell::RefCell;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use inn_ninep::connection::serve;
use inn_ninep::files::Tree;
use inn_ninep::server::MAX_MESSAGE;
use inn_ninep::wire::Writer;

const SECRET: &str = "what no client sees";

/// Both ends of a connection: what the client sends, and what it gets.
struct Wire {
    input: RefCell<io::Cursor<Vec<u8>>>,
    output: RefCell<Vec<u8>>,
}

impl Read for &Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.input.borrow_mut().read(into)
    }
}

impl Write for &Wire {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.output.borrow_mut().write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A folder with a tree that is served and a file beside it.
struct Place(PathBuf);

impl Place {
    fn new() -> io::Result<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("inn-9p-fuzzed-{}-{number}", std::process::id());
        let place = Self(std::env::temp_dir().join(name));
        fs::create_dir_all(place.root().join("a"))?;
        fs::write(place.0.join("s"), SECRET)?;
        fs::write(place.root().join("f"), "content")?;
        symlink("../s", place.root().join("l"))?;
        Ok(place)
    }

    fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    fn check(&self) {
        let beside = fs::read_dir(&self.0).map(Iterator::count).ok();
        assert_eq!(beside, Some(2), "something was made beside the root");
        let secret = fs::read(self.0.join("s")).ok();
        assert_eq!(secret.as_deref(), Some(SECRET.as_bytes()));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A user cannot remove what is in a folder that the client closed.
        open_up(&self.root());
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open_up(folder: &Path) {
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Writer::default();
    let size = u32::try_from(7 + body.len()).unwrap_or(u32::MAX);
    frame.u32(size).u8(kind).u16(1).raw(body);
    frame.into_bytes()
}

/// What a client sends. After an even byte, the bytes as they are; after an odd
/// one, the beginning of a session and messages of a type, a length and a body.
fn session(bytes: &[u8]) -> Vec<u8> {
    let Some((first, mut left)) = bytes.split_first() else {
        return Vec::new();
    };
    if first % 2 == 0 {
        return left.to_vec();
    }
    let mut version = Writer::default();
    version.u32(MAX_MESSAGE).text(b"9P2000.L");
    let mut attach = Writer::default();
    attach.u32(0).u32(u32::MAX).text(b"").text(b"").u32(0);
    let mut sent = frame(100, &version.into_bytes());
    sent.extend(frame(104, &attach.into_bytes()));
    while let [kind, length, rest @ ..] = left {
        let (body, after) = rest.split_at(rest.len().min(usize::from(*length)));
        sent.extend(frame(*kind, body));
        left = after;
    }
    sent
}

/// Lengths of the answers; each must be whole.
fn answers(mut output: &[u8]) -> usize {
    let mut count = 0;
    while let [a, b, c, d, ..] = output {
        let size = u32::from_le_bytes([*a, *b, *c, *d]);
        assert!(
            (7..=MAX_MESSAGE).contains(&size),
            "an answer of {size} bytes"
        );
        assert!(output.len() >= size as usize, "half an answer");
        output = &output[size as usize..];
        count += 1;
    }
    assert!(output.is_empty());
    count
}

/// Serves one client that sends these bytes; how many answers it got.
pub fn play(bytes: &[u8]) -> usize {
    let place = Place::new().expect("a folder to serve");
    let tree = Arc::new(Tree::new(&place.root(), false).expect("a tree"));
    let wire = Wire {
        input: RefCell::new(io::Cursor::new(session(bytes))),
        output: RefCell::default(),
    };
    // A client that does not keep to the framing ends its connection.
    let _ = serve(&wire, tree);
    place.check();
    answers(&wire.output.borrow())
}
