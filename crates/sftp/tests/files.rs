// SPDX-License-Identifier: Apache-2.0
//! The server on a real folder, and against packets that nobody should send.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use inn_sftp::packet::Builder;
use inn_sftp::reply::Status;
use inn_sftp::serve;
use inn_sftp::server::{HANDLES_LIMIT, Server};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("inn-sftp-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> Vec<u8> {
        self.0.join(name).to_str().unwrap().as_bytes().to_vec()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn request(kind: u8, build: impl FnOnce(&mut Builder)) -> Vec<u8> {
    let mut packet = Builder::new(kind);
    packet.u32(1);
    build(&mut packet);
    packet.finish().split_off(4)
}

/// Type and content of a reply, after its length and request number.
fn split(reply: &[u8]) -> (u8, &[u8]) {
    assert_eq!(
        reply.len() - 4,
        u32::from_be_bytes(reply[..4].try_into().unwrap()) as usize
    );
    (reply[4], &reply[9..])
}

fn status(reply: &[u8]) -> u32 {
    let (kind, content) = split(reply);
    assert_eq!(kind, 101, "{reply:?}");
    u32::from_be_bytes(content[..4].try_into().unwrap())
}

fn open(server: &mut Server, path: &[u8], flags: u32, mode: u32) -> Vec<u8> {
    server.answer(&request(3, |packet| {
        packet.string(path).u32(flags).u32(4).u32(mode);
    }))
}

fn handle(reply: &[u8]) -> Vec<u8> {
    let (kind, content) = split(reply);
    assert_eq!(kind, 102, "{reply:?}");
    content[4..].to_vec()
}

#[test]
fn a_file_is_written_and_read() {
    let folder = Folder::new("file");
    let path = folder.path("file");
    let mut server = Server::default();
    let opened = handle(&open(&mut server, &path, 2 | 8 | 16, 0o640));
    for (offset, bytes) in [(0, &b"hello "[..]), (6, b"world")] {
        let written = server.answer(&request(6, |packet| {
            packet.string(&opened).u64(offset).string(bytes);
        }));
        assert_eq!(status(&written), Status::Ok as u32);
    }
    let times = server.answer(&request(10, |packet| {
        packet
            .string(&opened)
            .u32(4 | 8)
            .u32(0o600)
            .u32(1000)
            .u32(2000);
    }));
    assert_eq!(status(&times), 0);
    assert_eq!(
        status(&server.answer(&request(4, |packet| {
            packet.string(&opened);
        }))),
        0
    );
    let found = fs::metadata(folder.0.join("file")).unwrap();
    assert_eq!(
        (found.mode() & 0o7777, found.atime(), found.mtime()),
        (0o600, 1000, 2000)
    );

    let opened = handle(&open(&mut server, &path, 1, 0));
    let read = |server: &mut Server, offset, length| {
        server.answer(&request(5, |packet| {
            packet.string(&opened).u64(offset).u32(length);
        }))
    };
    assert_eq!(
        split(&read(&mut server, 6, u32::MAX)),
        (103, &b"\0\0\0\x05world"[..])
    );
    assert_eq!(status(&read(&mut server, 11, 1)), Status::Eof as u32);
    assert_eq!(
        status(&read(&mut server, u64::MAX, 1)),
        Status::Failure as u32
    );
    assert_eq!(
        status(&open(&mut server, &folder.path("none"), 1, 0)),
        Status::NoSuchFile as u32
    );
    assert_eq!(
        status(&open(&mut server, &path, 2 | 8 | 32, 0o600)),
        Status::Failure as u32
    );
}

#[test]
fn appending_ignores_offsets() {
    let folder = Folder::new("append");
    let mut server = Server::default();
    fs::write(folder.0.join("log"), "one\n").unwrap();
    let opened = handle(&open(&mut server, &folder.path("log"), 2 | 4, 0));
    let done = server.answer(&request(6, |packet| {
        packet.string(&opened).u64(0).string(b"two\n");
    }));
    assert_eq!(status(&done), 0);
    assert_eq!(fs::read(folder.0.join("log")).unwrap(), b"one\ntwo\n");
}

#[test]
fn folders_are_listed_in_parts() {
    let folder = Folder::new("list");
    for number in 0..300 {
        fs::write(folder.0.join(format!("{number:0>200}")), "").unwrap();
    }
    symlink("nowhere", folder.0.join("link")).unwrap();
    let mut server = Server::default();
    let opened = handle(&server.answer(&request(11, |packet| {
        packet.string(folder.0.to_str().unwrap().as_bytes());
    })));
    let (mut names, mut parts) = (0, 0);
    loop {
        let reply = server.answer(&request(12, |packet| {
            packet.string(&opened);
        }));
        assert!(reply.len() <= inn_sftp::PACKET_LIMIT + 4);
        let (kind, content) = split(&reply);
        if kind == 101 {
            assert_eq!(status(&reply), Status::Eof as u32);
            break;
        }
        names += u32::from_be_bytes(content[..4].try_into().unwrap());
        parts += 1;
    }
    assert_eq!(names, 301);
    assert!(parts > 1);
}

#[test]
fn renaming_replaces_only_when_asked_to() {
    let folder = Folder::new("rename");
    let mut server = Server::default();
    fs::write(folder.0.join("a"), "a").unwrap();
    fs::write(folder.0.join("b"), "b").unwrap();
    let plain = server.answer(&request(18, |packet| {
        packet.string(&folder.path("a")).string(&folder.path("b"));
    }));
    assert_eq!(status(&plain), Status::Failure as u32);
    assert_eq!(fs::read(folder.0.join("b")).unwrap(), b"b");
    let posix = server.answer(&request(200, |packet| {
        packet.string(b"posix-rename@openssh.com");
        packet.string(&folder.path("a")).string(&folder.path("b"));
    }));
    assert_eq!(status(&posix), 0);
    assert_eq!(fs::read(folder.0.join("b")).unwrap(), b"a");
    let free = server.answer(&request(18, |packet| {
        packet.string(&folder.path("b")).string(&folder.path("c"));
    }));
    assert_eq!(status(&free), 0);
}

#[test]
fn links_and_folders() {
    let folder = Folder::new("links");
    let mut server = Server::default();
    let made = server.answer(&request(14, |packet| {
        packet.string(&folder.path("sub")).u32(4).u32(0o711);
    }));
    assert_eq!(status(&made), 0);
    assert_eq!(
        fs::metadata(folder.0.join("sub"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o711
    );
    let linked = server.answer(&request(20, |packet| {
        packet.string(b"sub").string(&folder.path("link"));
    }));
    assert_eq!(status(&linked), 0);
    assert_eq!(
        fs::read_link(folder.0.join("link")).unwrap(),
        PathBuf::from("sub")
    );
    for (kind, expected) in [(19_u8, b"sub".to_vec()), (16, folder.path("sub"))] {
        let reply = server.answer(&request(kind, |packet| {
            packet.string(&folder.path("link"));
        }));
        let (kind, content) = split(&reply);
        assert_eq!(
            (kind, &content[8..8 + expected.len()]),
            (104, &expected[..])
        );
    }
    // lsetstat changes the link itself.
    let times = server.answer(&request(200, |packet| {
        packet
            .string(b"lsetstat@openssh.com")
            .string(&folder.path("link"));
        packet.u32(8).u32(5).u32(6);
    }));
    assert_eq!(status(&times), 0);
    assert_eq!(
        fs::symlink_metadata(folder.0.join("link")).unwrap().mtime(),
        6
    );
    assert_ne!(fs::metadata(folder.0.join("sub")).unwrap().mtime(), 6);
}

#[test]
fn open_files_are_bounded_and_their_numbers_never_reused() {
    let folder = Folder::new("handles");
    let mut server = Server::default();
    fs::write(folder.0.join("x"), "x").unwrap();
    let handles: Vec<Vec<u8>> = (0..HANDLES_LIMIT)
        .map(|_| handle(&open(&mut server, &folder.path("x"), 1, 0)))
        .collect();
    assert_eq!(
        status(&open(&mut server, &folder.path("x"), 1, 0)),
        Status::Failure as u32
    );
    let close = |server: &mut Server| {
        status(&server.answer(&request(4, |packet| {
            packet.string(&handles[0]);
        })))
    };
    assert_eq!(close(&mut server), 0);
    assert_eq!(close(&mut server), Status::Failure as u32);
    let again = handle(&open(&mut server, &folder.path("x"), 1, 0));
    assert!(!handles.contains(&again));
}

#[test]
fn hostile_packets_are_answered_or_end_the_stream() {
    let mut server = Server::default();
    let whole = request(5, |packet| {
        packet.string(&7_u64.to_be_bytes()).u64(0).u32(9);
    });
    for end in 0..whole.len() {
        assert_eq!(
            status(&server.answer(&whole[..end])),
            Status::BadMessage as u32
        );
    }
    assert_eq!(status(&server.answer(&whole)), Status::Failure as u32);
    assert_eq!(
        status(&server.answer(&request(77, |_| {}))),
        Status::Unsupported as u32
    );
    for stream in [
        &b"\xff\xff\xff\xff"[..],
        b"\0\0\0\x05\x03\0\0\0\x01",
        b"\0\0\0\x05\x01\0\0\0\x03\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        assert!(serve(stream, std::io::sink()).is_err());
    }
    serve(&b""[..], std::io::sink()).unwrap();
}

#[test]
fn a_connection_begins_with_the_version() {
    let mut out = Vec::new();
    let hello = b"\0\0\0\x05\x01\0\0\0\x03\0\0\0\x05\xc8\0\0\0\x09";
    serve(&hello[..], &mut out).unwrap();
    assert_eq!(&out[4..9], b"\x02\0\0\0\x03");
    assert!(out.windows(19).any(|part| part == b"limits@openssh.com\0"));
}
