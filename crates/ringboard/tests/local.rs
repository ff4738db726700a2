// SPDX-License-Identifier: Apache-2.0
//! A guest's programs and the host's on one board.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use inn_ringboard::{HOST, Operation, Outcome};
use inn_rings::abi::{Address, DOMID_ANY, RingData, flags};
use inn_ringwire::{Answer, Request, What};
use support::*;
use tempfile::tempdir;

const EAGAIN: i32 = -11;

#[test]
fn a_message_goes_from_the_guest_to_the_host_and_back() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let (mut guest, mut host) = (side.guest(), side.host());
    assert_eq!(host.register(100, 3, 4096), 0);
    assert_eq!(guest.register(7, HOST, 4096), 0);
    assert_eq!(guest.send(7, Address::new(HOST, 100), b"ping"), 4);
    assert_eq!(host.next(100, 3), [(3, 7, b"ping".to_vec())]);
    assert_eq!(host.send(100, Address::new(3, 7), b"pong"), 4);
    assert_eq!(guest.next(7, HOST), [(0, 100, b"pong".to_vec())]);
}

#[test]
fn arrivals_are_told_once_until_the_ring_is_read() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let (mut guest, mut host) = (side.guest(), side.host());
    host.register(100, 3, 4096);
    guest.bind(1);
    for _ in 0..5 {
        guest.send(1, Address::new(HOST, 100), b"x");
    }
    assert_eq!(host.events_until_now().len(), 1);
    assert_eq!(host.receive(100, 3).len(), 5);
    guest.send(1, Address::new(HOST, 100), b"y");
    assert_eq!(host.events_until_now().len(), 1);
}

#[test]
fn who_waits_is_told_of_room_by_a_wake_and_of_an_end() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let (mut guest, mut host) = (side.guest(), side.host());
    host.register(100, 3, 96);
    guest.bind(1);
    let ring = Address::new(HOST, 100);
    assert_eq!(guest.send(1, ring, &[1; 48]), 48);
    assert_eq!(guest.send(1, ring, &[2; 48]), EAGAIN);
    assert_eq!(host.receive(100, 3).len(), 1);
    let event = guest.event();
    assert_eq!(
        (event.what, event.owner, event.port),
        (What::Space, HOST, 100)
    );
    assert_eq!(guest.send(1, ring, &[2; 48]), 48);
    assert_eq!(guest.send(1, ring, &[3; 48]), EAGAIN);
    drop(host);
    assert_eq!(guest.event().what, What::Closed);
}

#[test]
fn requests_are_done_in_order_without_waiting_for_answers() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let (mut guest, mut host) = (side.guest(), side.host());
    host.register(100, 3, 1 << 20);
    guest.bind(1);
    let tags: Vec<_> = (0u32..5000)
        .map(|n| guest.post(1, Address::new(HOST, 100), &n.to_le_bytes()))
        .collect();
    for tag in tags {
        assert_eq!(guest.answer(tag).0, 4);
    }
    let got: Vec<_> = host.receive(100, 3).into_iter().map(|one| one.2).collect();
    let want: Vec<_> = (0u32..5000).map(|n| n.to_le_bytes().to_vec()).collect();
    assert_eq!(got, want);
}

#[test]
fn what_a_program_owns_ends_with_its_connection() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let (first, mut second) = (side.guest(), side.guest());
    let mut first = first;
    assert_eq!(first.bind(5), 0);
    assert_eq!(second.bind(5), -98);
    drop(first);
    // The board reads the end when it reads it.
    while second.bind(5) != 0 {
        std::thread::yield_now();
    }
}

#[test]
fn an_automatic_port_comes_in_the_body() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let mut guest = side.guest();
    let (result, body) = guest.call(Request::Bind(0));
    assert_eq!((result, body), (0, 0x8000_0000u32.to_le_bytes().to_vec()));
}

#[test]
fn the_host_sees_all_rings_and_a_guest_its_own() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let (mut guest, mut host) = (side.guest(), side.host());
    host.register(100, 3, 4096);
    guest.register(7, DOMID_ANY, 4096);
    let ports = |(result, body): (i32, Vec<u8>)| -> Vec<_> {
        let body = &body;
        let rings: Vec<_> = Answer { result, body }
            .rings()
            .map(|one| one.port)
            .collect();
        rings
    };
    assert_eq!(ports(guest.call(Request::Info)), [7]);
    assert_eq!(ports(host.call(Request::Info)), [100, 7]);
}

#[test]
fn a_guest_speaks_for_itself_alone() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let (mut guest, mut host) = (side.guest(), side.host());
    host.register(100, 3, 4096);
    guest.bind(1);
    let tag = guest.tag();
    let mut frame = Vec::new();
    let addresses = [Address::new(HOST, 1), Address::new(HOST, 100)];
    inn_ringwire::Sendv::encode(&mut frame, tag, addresses, 0, &[]);
    std::io::Write::write_all(&mut guest.stream, &frame).unwrap();
    assert_eq!(guest.answer(tag).0, -1);
    assert_eq!(
        guest.send(2, Address::new(HOST, 100), b""),
        -1,
        "not its port"
    );
}

#[test]
fn new_rules_cut_rings_and_waiters_and_are_told() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let (mut guest, mut host) = (side.guest(), side.host());
    guest.register(7, HOST, 4096);
    host.register(100, 3, 96);
    guest.bind(1);
    let ring = Address::new(HOST, 100);
    guest.send(1, ring, &[0; 48]);
    assert_eq!(guest.send(1, ring, &[0; 48]), EAGAIN);
    let _ = side.board.decisions().take();
    let mut rules = open_rules(folder.path(), 3, &[]);
    rules.rows.get_mut(&HOST).unwrap().to.send.clear();
    rules.rows.get_mut(&HOST).unwrap().from.register.clear();
    side.board.set_rules(rules).unwrap();
    let events = guest.events_until_now();
    let told: Vec<_> = events.iter().map(|one| (one.what, one.port)).collect();
    assert_eq!(told, [(What::Closed, 7), (What::Closed, 100)]);
    assert_eq!(
        guest.send(1, ring, b"x"),
        -111,
        "looks as if there were no ring"
    );
    assert_eq!(guest.register(7, HOST, 4096), -3);
    let (told, lost) = side.board.decisions().take();
    let told: Vec<_> = told
        .iter()
        .map(|one| (one.operation, one.sender, one.owner, one.port, one.outcome))
        .collect();
    assert_eq!(lost, 0);
    assert_eq!(
        told,
        [
            (Operation::RegisterSingle, Some(0), 3, 7, Outcome::Cut),
            (Operation::Send, Some(3), 0, 100, Outcome::Cut),
            (Operation::Send, Some(3), 0, 100, Outcome::Denied),
            (Operation::RegisterSingle, Some(0), 3, 7, Outcome::Denied),
        ]
    );
}

#[test]
fn a_share_of_a_wildcard_ring_is_the_rules() {
    let folder = tempdir().unwrap();
    let mut rules = open_rules(folder.path(), 3, &[]);
    rules.rows.get_mut(&HOST).unwrap().to.send = vec![(0, 99, 100), (100, 100, 25)];
    let side = Side::start(folder.path(), 3, rules, &[]);
    let (mut guest, mut host) = (side.guest(), side.host());
    for port in [99, 100] {
        assert_eq!(host.register(port, DOMID_ANY, 4112), 0);
    }
    let questions = [99, 100].map(|port| (Address::new(HOST, port), 1));
    let (result, entries) = guest.ask(&questions);
    assert_eq!(result, 0);
    let most: Vec<_> = entries.iter().map(|one| one.max_message_size).collect();
    assert_eq!(most, [4096 - 16, 1024 - 16]);
}

#[test]
fn a_notify_answers_and_refuses_too_many() {
    let folder = tempdir().unwrap();
    let side = Side::open(folder.path(), 3, &[]);
    let (mut guest, mut host) = (side.guest(), side.host());
    host.register(100, 3, 4096);
    let (result, entries) = guest.ask(&[(Address::new(HOST, 100), 16), (Address::new(9, 1), 1)]);
    assert_eq!(result, 0);
    let want = flags::EXISTS | flags::EMPTY | flags::SUFFICIENT;
    assert_eq!(entries[0].flags, want);
    assert_eq!(entries[1], RingData::new(Address::new(9, 1), 1));
    let many = [(Address::new(HOST, 100), 16); 257];
    assert_eq!(guest.ask(&many).0, -22);
}
