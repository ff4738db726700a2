// SPDX-License-Identifier: Apache-2.0
//! Clients that send garbage, half of things, too much, or never read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use inn_ringboard::HOST;
use inn_rings::abi::Address;
use inn_ringwire::{Request, VERSION};
use support::*;
use tempfile::tempdir;

fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    Request::Hello(VERSION).encode(&mut bytes, 1);
    bytes
}

fn closes(side: &Side, bytes: &[u8]) -> bool {
    let mut stream = side.raw("guest");
    stream.write_all(bytes).unwrap();
    let mut rest = Vec::new();
    // A reset, where the board had not read all of it, is an end too.
    let _ = stream.read_to_end(&mut rest);
    stream.write_all(&[0; 1]).is_err() || stream.read(&mut [0]).is_ok_and(|count| count == 0)
}

#[test]
fn what_makes_no_sense_is_not_answered() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let after_hello = |bytes: &[u8]| [&hello(), bytes].concat();
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        u32::MAX.to_le_bytes().to_vec(),
        vec![4, 0, 0, 0],
        after_hello(&hello()),
        after_hello(&[5, 0, 0, 0, 9, 0, 0, 0, 0]),
        after_hello(&[6, 0, 0, 0, 9, 1, 0, 0, 0, 0]),
        after_hello(&[9, 0, 0, 0, 0x21, 0, 0, 0, 0, 1, 0, 0, 0]),
        after_hello(&[10, 0, 0, 0, 0x20, 1, 0, 0, 0, 1, 0, 0, 0, 9]),
        vec![5, 0, 0, 0, 9, 1, 0, 0, 0],
    ] {
        assert!(closes(&side, &bytes), "{bytes:?}");
    }
    assert_eq!(side.guest().bind(1), 0, "others are served");
}

#[test]
fn another_version_is_told_so() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let mut stream = side.raw("guest");
    let mut bytes = Vec::new();
    Request::Hello(2).encode(&mut bytes, 1);
    stream.write_all(&bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer[9..13], (-93i32).to_le_bytes());
}

#[test]
fn unknown_requests_are_answered() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    assert_eq!(side.guest().call(Request::Unknown(30)).0, -95);
}

#[test]
fn half_a_frame_keeps_nobody_from_anything() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let mut halves = Vec::new();
    for _ in 0..20 {
        let mut stream = side.raw("guest");
        stream.write_all(&hello()).unwrap();
        stream.write_all(&[0, 0, 0x10, 0, 4, 9]).unwrap();
        halves.push(stream);
    }
    let mut guest = side.guest();
    assert_eq!(guest.bind(1), 0);
    drop(halves);
    assert_eq!(guest.bind(2), 0);
}

/// Requests without a reader of answers: the board stops reading, and goes on
/// when somebody reads.
#[test]
fn a_flood_without_reading_stops_at_a_bound() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let mut flood = side.guest();
    flood
        .stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut one = Vec::new();
    let entries = [inn_rings::abi::RingData::new(Address::new(HOST, 1), 1); 256];
    Request::encode_notify(&mut one, 77, &entries);
    let mut sent = 0usize;
    // 256 KiB of answers and what two sockets hold; far below 64 MiB.
    while sent < 64 << 20 {
        match flood.stream.write(&one) {
            Ok(count) if count == one.len() => sent += count,
            _ => break,
        }
    }
    assert!(sent < 8 << 20, "{sent}");
    let mut other = side.guest();
    assert_eq!(other.bind(1), 0, "others are served");
    assert_eq!(flood.answer(77).0, 0);
}

#[test]
fn more_half_frames_than_a_domain_may_hold_are_closed() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let mut part = hello();
    part.extend((inn_ringwire::MAX_FRAME).to_le_bytes());
    part.extend(vec![4; 1 << 20]);
    let mut open: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = side.raw("guest");
            // Fails where it was closed in the middle.
            let _ = stream.write_all(&part);
            let wait = Some(Duration::from_millis(10));
            stream.set_read_timeout(wait).unwrap();
            stream
        })
        .collect();
    // 40 MiB are more than 32; the board closes when it has read so far.
    while open.len() > 33 {
        open.retain_mut(|stream| match stream.read(&mut [0; 64]) {
            Ok(count) => count > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
    }
    let mut host = side.host();
    assert_eq!(host.bind(1), 0, "another domain is not concerned");
}

/// Each port is another decision; the audit is told of some, and how many more.
#[test]
fn a_search_for_ports_does_not_flood_the_audit() {
    let folder = tempdir().unwrap();
    let mut rules = open_rules(folder.path(), 3, &[]);
    rules.rows.remove(&HOST);
    let side = Side::start(folder.path(), 3, rules, &[]);
    let mut guest = side.guest();
    guest.bind(1);
    let tags: Vec<_> = (0..20_000)
        .map(|port| guest.post(1, Address::new(HOST, port), b""))
        .collect();
    for tag in tags {
        assert_eq!(guest.answer(tag).0, -3);
    }
    let (told, lost) = side.board.decisions().take();
    assert!(told.len() <= 4096, "{}", told.len());
    assert_eq!(told.len() as u64 + lost, 20_000);
}

#[test]
fn a_client_that_ends_at_once_has_sent_what_it_sent() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let mut host = side.host();
    host.register(100, 3, 4096);
    let mut guest = side.guest();
    guest.bind(1);
    for _ in 0..10 {
        guest.post(1, Address::new(HOST, 100), b"bye");
    }
    drop(guest);
    let mut count = 0;
    while count < 10 {
        count += host.next(100, 3).len();
    }
    assert_eq!(count, 10);
}

#[test]
fn a_domain_has_so_many_connections() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let most: Vec<_> = (0..256).map(|_| side.guest()).collect();
    let mut stream = side.raw("guest");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    drop(most);
}

/// A keeper that lies: events for nobody, answers to nothing.
#[test]
fn a_link_that_makes_no_sense_is_a_dead_guest() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[4]);
    let path = folder.path().join("4_from_3");
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    let mut guest = side.guest();
    guest.bind(1);
    let tag = guest.post(1, Address::new(4, 2), b"x");
    let (mut far, _) = listener.accept().unwrap();
    far.write_all(&[9, 0, 0, 0, 0x80, 99, 0, 0, 0, 0, 0, 0, 0])
        .unwrap();
    assert_eq!(guest.answer(tag).0, -3);
}
