// SPDX-License-Identifier: Apache-2.0
//! Two boards, each of one guest, and what becomes of both when one goes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::os::unix::net::UnixListener;
use std::time::Duration;

use inn_ringboard::{Config, HOST, Outcome};
use inn_rings::abi::{Address, DOMID_ANY, flags};
use inn_ringwire::What;
use support::*;
use tempfile::tempdir;

const ESRCH: i32 = -3;
const EAGAIN: i32 = -11;
const ECONNREFUSED: i32 = -111;

#[test]
fn guests_exchange_messages() {
    let folder = tempdir().unwrap();
    let (a, b) = pair(folder.path());
    let (mut alice, mut bob) = (a.guest(), b.guest());
    assert_eq!(alice.register(1, 4, 4096), 0);
    assert_eq!(bob.register(2, 3, 4096), 0);
    assert_eq!(alice.send(1, Address::new(4, 2), b"hello"), 5);
    assert_eq!(bob.next(2, 3), [(3, 1, b"hello".to_vec())]);
    assert_eq!(bob.send(2, Address::new(3, 1), b"hi"), 2);
    assert_eq!(alice.next(1, 4), [(4, 2, b"hi".to_vec())]);
}

#[test]
fn a_message_of_a_mebibyte_arrives_whole_and_a_longer_one_does_not() {
    let folder = tempdir().unwrap();
    let (a, b) = pair(folder.path());
    let (mut alice, mut bob) = (a.guest(), b.guest());
    alice.bind(1);
    bob.register(2, 3, 4 << 20);
    let bytes: Vec<u8> = (0..1u32 << 20).map(|n| (n % 251) as u8).collect();
    assert_eq!(alice.send(1, Address::new(4, 2), &bytes), 1 << 20);
    assert_eq!(bob.next(2, 3), [(3, 1, bytes.clone())]);
    let longer = [bytes, vec![0]].concat();
    assert_eq!(alice.send(1, Address::new(4, 2), &longer), -90);
}

#[test]
fn many_in_flight_keep_their_order() {
    let folder = tempdir().unwrap();
    let (a, b) = pair(folder.path());
    let (mut alice, mut bob) = (a.guest(), b.guest());
    alice.bind(1);
    bob.register(2, DOMID_ANY, 1 << 20);
    let tags: Vec<_> = (0u32..5000)
        .map(|n| alice.post(1, Address::new(4, 2), &n.to_le_bytes()))
        .collect();
    for tag in tags {
        assert_eq!(alice.answer(tag).0, 4);
    }
    let got: Vec<_> = bob
        .receive(2, DOMID_ANY)
        .into_iter()
        .map(|one| one.2)
        .collect();
    let want: Vec<_> = (0u32..5000).map(|n| n.to_le_bytes().to_vec()).collect();
    assert_eq!(got, want);
}

#[test]
fn space_and_answers_of_a_notify_come_over_the_link() {
    let folder = tempdir().unwrap();
    let (a, b) = pair(folder.path());
    let (mut alice, mut bob, mut host) = (a.guest(), b.guest(), a.host());
    alice.bind(1);
    bob.register(2, 3, 96);
    host.register(9, 3, 4096);
    let ring = Address::new(4, 2);
    assert_eq!(alice.send(1, ring, &[1; 48]), 48);
    let questions = [
        (ring, 48),
        (Address::new(HOST, 9), 1),
        (Address::new(4, 3), 1),
    ];
    let (result, entries) = alice.ask(&questions);
    assert_eq!(result, 0);
    let got: Vec<_> = entries.iter().map(|one| one.flags).collect();
    let here = flags::EXISTS | flags::EMPTY | flags::SUFFICIENT;
    assert_eq!(got, [flags::EXISTS, here, 0]);
    bob.receive(2, 3);
    let event = alice.event();
    assert_eq!((event.what, event.owner, event.port), (What::Space, 4, 2));
}

#[test]
fn a_port_passes_from_one_program_to_another() {
    let folder = tempdir().unwrap();
    let (a, b) = pair(folder.path());
    let (mut first, mut second, mut bob) = (a.guest(), a.guest(), b.guest());
    bob.register(2, 3, 4096);
    let ring = Address::new(4, 2);
    first.register(1, 4, 4096);
    assert_eq!(first.send(1, ring, b"a"), 1);
    assert_eq!(second.send(1, ring, b"b"), -1);
    first.unregister(1, 4);
    second.bind(1);
    assert_eq!(second.send(1, ring, b"b"), 1);
    assert_eq!(bob.receive(2, 3).len(), 2);
}

#[test]
fn a_guest_that_is_not_there_looks_absent() {
    let folder = tempdir().unwrap();
    let a = Side::open(folder.path(), 3, &[4]);
    let mut alice = a.guest();
    alice.bind(1);
    assert_eq!(alice.send(1, Address::new(4, 2), b""), ESRCH);
    assert_eq!(alice.register(1, 4, 4096), ESRCH);
    let (result, entries) = alice.ask(&[(Address::new(4, 2), 1)]);
    assert_eq!((result, entries[0].flags), (0, 0));
}

#[test]
fn those_who_wait_for_a_guest_that_ends_are_told() {
    let folder = tempdir().unwrap();
    let (a, b) = pair(folder.path());
    let (mut alice, mut bob) = (a.guest(), b.guest());
    bob.register(2, 3, 96);
    alice.bind(1);
    alice.register(1, 4, 4096);
    let ring = Address::new(4, 2);
    alice.send(1, ring, &[0; 48]);
    assert_eq!(alice.send(1, ring, &[0; 48]), EAGAIN);
    drop(bob);
    let event = alice.event();
    assert_eq!((event.what, event.owner, event.port), (What::Closed, 4, 2));
    assert_eq!(
        alice.send(1, ring, b""),
        ECONNREFUSED,
        "the ring went, the guest is there"
    );
    b.board.close();
    let event = alice.event();
    assert_eq!((event.what, event.owner, event.port), (What::Closed, 3, 1));
    assert_eq!(alice.send(1, ring, b""), ESRCH);
}

#[test]
fn a_guest_that_starts_again_is_another_one() {
    let folder = tempdir().unwrap();
    let (a, b) = pair(folder.path());
    let (mut alice, mut bob) = (a.guest(), b.guest());
    bob.register(2, 3, 4096);
    alice.register(1, 4, 4096);
    bob.bind(5);
    assert_eq!(bob.send(5, Address::new(3, 1), b"old"), 3);
    b.board.close();
    assert_eq!(alice.event().what, What::Arrival);
    assert_eq!(alice.event().what, What::Closed);
    let b = Side::open(folder.path(), 4, &[3]);
    let mut bob = b.guest();
    bob.bind(5);
    assert_eq!(bob.send(5, Address::new(3, 1), b"new"), ECONNREFUSED);
    assert_eq!(alice.register(1, 4, 4096), 0);
    assert_eq!(bob.send(5, Address::new(3, 1), b"new"), 3);
    assert_eq!(alice.next(1, 4), [(4, 5, b"new".to_vec())]);
}

/// The other end takes the message and never answers: its end is an answer.
#[test]
fn a_guest_that_dies_in_the_middle_of_a_send_is_no_hang() {
    let folder = tempdir().unwrap();
    let a = Side::open(folder.path(), 3, &[4]);
    let listener = UnixListener::bind(folder.path().join("4_from_3")).unwrap();
    let mut alice = a.guest();
    alice.bind(1);
    let tags: Vec<_> = (0..3)
        .map(|_| alice.post(1, Address::new(4, 2), b"half"))
        .collect();
    let (far, _) = listener.accept().unwrap();
    let mut head = [0; 13];
    std::io::Read::read_exact(&mut &far, &mut head).unwrap();
    drop((far, listener));
    for tag in tags {
        assert_eq!(alice.answer(tag).0, ESRCH);
    }
}

/// The other end takes the message, lives, and says nothing.
#[test]
fn a_keeper_that_does_not_answer_is_no_hang() {
    let folder = tempdir().unwrap();
    let config = Config {
        answer_timeout: Duration::from_millis(50),
        ..Config::new(3, open_rules(folder.path(), 3, &[4]))
    };
    let a = Side::configured(folder.path(), config, &[4]);
    let _listener = UnixListener::bind(folder.path().join("4_from_3")).unwrap();
    let mut alice = a.guest();
    alice.bind(1);
    assert_eq!(alice.send(1, Address::new(4, 2), b"x"), ESRCH);
    let (result, entries) = alice.ask(&[(Address::new(4, 2), 1)]);
    assert_eq!((result, entries[0].flags), (0, 0));
    let bytes = vec![0; 1 << 20];
    let tags: Vec<_> = (0..4)
        .map(|_| alice.post(1, Address::new(4, 2), &bytes))
        .collect();
    for tag in tags {
        assert_eq!(alice.answer(tag).0, ESRCH);
    }
}

#[test]
fn both_ends_decide() {
    let folder = tempdir().unwrap();
    let (a, b) = pair(folder.path());
    let (mut alice, mut bob) = (a.guest(), b.guest());
    alice.bind(1);
    bob.register(2, 3, 4096);
    bob.register(3, 3, 4096);
    let mut rules = open_rules(folder.path(), 4, &[3]);
    rules.rows.get_mut(&3).unwrap().from.send = vec![(3, 3, 50)];
    b.board.set_rules(rules).unwrap();
    let _ = (a.board.decisions().take(), b.board.decisions().take());
    assert_eq!(alice.send(1, Address::new(4, 2), b"x"), ECONNREFUSED);
    assert_eq!(alice.send(1, Address::new(4, 3), b"x"), 1);
    let told = |side: &Side| -> Vec<_> {
        let (told, _) = side.board.decisions().take();
        told.iter()
            .map(|one| (one.sender, one.owner, one.port, one.outcome))
            .collect()
    };
    let want = [
        (Some(3), 4, 2, Outcome::Denied),
        (Some(3), 4, 3, Outcome::Allowed),
    ];
    assert_eq!(told(&b), want);
    let mut rules = open_rules(folder.path(), 3, &[4]);
    rules.rows.get_mut(&4).unwrap().to.send.clear();
    a.board.set_rules(rules).unwrap();
    assert_eq!(alice.send(1, Address::new(4, 3), b"x"), ECONNREFUSED);
    assert_eq!(told(&a).last(), Some(&(Some(3), 4, 3, Outcome::Denied)));
    assert_eq!(told(&b), [], "nothing was sent to it");
}

#[test]
fn a_guest_that_leaves_the_rules_is_cut_off() {
    let folder = tempdir().unwrap();
    let (a, b) = pair(folder.path());
    let (mut alice, mut bob) = (a.guest(), b.guest());
    bob.register(2, 3, 96);
    alice.bind(1);
    alice.register(1, 4, 4096);
    let ring = Address::new(4, 2);
    alice.send(1, ring, &[0; 48]);
    assert_eq!(alice.send(1, ring, &[0; 48]), EAGAIN);
    a.board
        .set_rules(open_rules(folder.path(), 3, &[]))
        .unwrap();
    let mut told: Vec<_> = alice
        .events_until_now()
        .iter()
        .map(|one| (one.what, one.owner, one.port))
        .collect();
    told.sort_unstable();
    assert_eq!(told, [(What::Closed, 3, 1), (What::Closed, 4, 2)]);
    assert_eq!(alice.send(1, ring, b""), ESRCH);
    assert_eq!(bob.event().what, What::Arrival);
    assert_eq!(bob.event().what, What::Closed);
}
