// SPDX-License-Identifier: Apache-2.0
//! Streams between two guests: two devices joined by a link.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic here is the failure report"
)]

mod guest;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use guest::{Guest, Options, eventually, fd};
use inn_vsock::packet::{Op, SHUTDOWN_BOTH, SHUTDOWN_SEND};
use inn_vsock::{Decision, Peer, Verdict};

const ALICE: u64 = 42;
const BOB: u64 = 43;

/// Two guests; Bob's device listens for Alice's.
struct Pair {
    alice: Guest,
    bob: Guest,
    socket: PathBuf,
}

fn table(cid: u64, peer: Peer) -> HashMap<u64, Peer> {
    HashMap::from([(cid, peer)])
}

impl Pair {
    fn new() -> Self {
        let mut alice = Guest::new();
        let mut bob = Guest::with(Options {
            cid: BOB,
            ..Options::default()
        });
        (alice.far_cid, bob.far_cid) = (BOB, ALICE);
        let socket = bob.dir.path().join("from-alice");
        let listener = UnixListener::bind(&socket).unwrap();
        bob.device.link(fd(listener), ALICE).unwrap();
        let pair = Self { alice, bob, socket };
        pair.allow(22);
        pair
    }

    /// Lets Alice reach this port of Bob's and no other.
    fn allow(&self, port: u32) {
        self.alice_may(port);
        self.bob_takes(port);
    }

    fn alice_may(&self, port: u32) {
        let peer = Peer {
            path: self.socket.to_str().unwrap().into(),
            connect: vec![port..=port],
            max_streams: 2,
            ..Peer::default()
        };
        self.alice
            .device
            .set_peers(table(BOB, peer), HashMap::new())
            .unwrap();
    }

    fn bob_takes(&self, port: u32) {
        let peer = Peer {
            accept: vec![port..=port],
            max_streams: 2,
            ..Peer::default()
        };
        self.bob
            .device
            .set_peers(table(ALICE, peer), HashMap::new())
            .unwrap();
    }

    /// A stream from this port of Alice's to Bob's port 22.
    fn connect(&mut self, from_port: u32) {
        self.alice.send(Op::Request, from_port, 22);
        // What ended before may still be under way.
        let request = self.bob.expect_after_others(Op::Request);
        assert_eq!((request.src_port, request.dst_port), (from_port, 22));
        self.bob.send(Op::Response, 22, from_port);
        self.alice.expect_after_others(Op::Response);
    }

    fn refused(&mut self, from_port: u32, port: u32) {
        self.alice.send(Op::Request, from_port, port);
        let reset = self.alice.expect_after_others(Op::Rst);
        assert_eq!((reset.src_port, reset.dst_port), (port, from_port));
    }
}

fn decided(guest: &Guest) -> Vec<(u64, bool, u32, Verdict)> {
    let (decisions, lost) = guest.device.decisions().take();
    assert_eq!(lost, 0);
    decisions
        .iter()
        .map(|one: &Decision| (one.peer_cid, one.outgoing, one.port, one.verdict))
        .collect()
}

#[test]
fn bytes_pass_both_ways_and_each_half_ends_alone() {
    let mut pair = Pair::new();
    pair.connect(1000);
    pair.alice.send_data(1000, 22, b"to bob");
    assert_eq!(pair.bob.expect(Op::Rw).1, b"to bob");
    pair.alice.shutdown(1000, 22, SHUTDOWN_SEND);
    assert_eq!(pair.bob.expect(Op::Shutdown).0.flags, SHUTDOWN_SEND);
    pair.bob.send_data(22, 1000, b"and back");
    assert_eq!(pair.alice.expect(Op::Rw).1, b"and back");
    pair.bob.shutdown(22, 1000, SHUTDOWN_BOTH);
    pair.bob.expect(Op::Rst);
    pair.alice.expect(Op::Shutdown);
    let allowed = |cid, outgoing| vec![(cid, outgoing, 22, Verdict::Allowed)];
    assert_eq!(decided(&pair.alice), allowed(BOB, true));
    assert_eq!(decided(&pair.bob), allowed(ALICE, false));
}

#[test]
fn what_the_table_does_not_name_is_absent() {
    let mut pair = Pair::new();
    pair.refused(1000, 23);
    // The same as a port on which nobody listens.
    pair.alice.send(Op::Request, 1001, 22);
    pair.bob.expect(Op::Request);
    pair.bob.send(Op::Rst, 22, 1001);
    pair.alice.expect(Op::Rst);
    // And as a guest that does not exist.
    pair.alice.far_cid = 99;
    pair.refused(1002, 22);
    assert_eq!(
        decided(&pair.alice),
        [
            (BOB, true, 23, Verdict::Denied),
            (BOB, true, 22, Verdict::Allowed),
            (99, true, 22, Verdict::Denied),
        ]
    );
    assert_eq!(pair.alice.device.stats().denied, 2);
}

#[test]
fn the_other_side_has_a_table_of_its_own() {
    let mut pair = Pair::new();
    pair.alice_may(80);
    pair.refused(1000, 80);
    pair.bob.expect_silence();
    assert_eq!(decided(&pair.bob), [(ALICE, false, 80, Verdict::Denied)]);
}

#[test]
fn a_new_table_cuts_what_it_does_not_allow() {
    let mut pair = Pair::new();
    pair.connect(1000);
    pair.alice_may(80);
    pair.alice.expect(Op::Rst);
    pair.bob.expect(Op::Shutdown);
    assert_eq!(
        decided(&pair.alice),
        [
            (BOB, true, 22, Verdict::Allowed),
            (BOB, true, 22, Verdict::Cut)
        ]
    );
    // What stays allowed stays open.
    pair.allow(22);
    pair.bob.send(Op::Rst, 22, 1000);
    pair.connect(1001);
    pair.allow(22);
    pair.alice.send_data(1001, 22, b"still");
    assert_eq!(pair.bob.expect(Op::Rw).1, b"still");
    assert_eq!(pair.alice.device.stats().cut, 1);
}

#[test]
fn a_guest_that_left_the_table_has_no_link() {
    let pair = Pair::new();
    pair.bob
        .device
        .set_peers(HashMap::new(), HashMap::new())
        .unwrap();
    eventually(|| UnixStream::connect(&pair.socket).is_err());
    let mut pair = pair;
    pair.refused(1000, 22);
}

#[test]
fn the_number_of_streams_is_bounded_for_each_peer() {
    let mut pair = Pair::new();
    pair.connect(1000);
    pair.connect(1001);
    pair.refused(1002, 22);
    let over = (BOB, true, 22, Verdict::OverQuota);
    assert_eq!(decided(&pair.alice).last(), Some(&over));
    // Streams of the host do not count.
    let service = pair.alice.service(7);
    pair.alice.far_cid = 2;
    pair.alice.dial(5, &service, 7);
    pair.alice.far_cid = BOB;
    pair.alice.send(Op::Rst, 1000, 22);
    pair.bob.expect(Op::Shutdown);
    pair.bob.send(Op::Rst, 22, 1000);
    pair.connect(1003);
}

#[test]
fn two_guests_may_use_the_same_ports() {
    let mut pair = Pair::new();
    pair.connect(1 << 30);
    // The host's first stream has this port too.
    pair.bob.far_cid = 2;
    let (mut client, host_port) = pair.bob.accept(22);
    assert_eq!(host_port, 1 << 30);
    pair.alice.send_data(1 << 30, 22, b"alice");
    client.write_all(b"host").unwrap();
    let mut got = [pair.bob.recv(), pair.bob.recv()].map(|(header, bytes)| (header.src_cid, bytes));
    got.sort();
    assert_eq!(got, [(2, b"host".to_vec()), (ALICE, b"alice".to_vec())]);
}

#[test]
fn only_links_speak_for_guests() {
    let pair = Pair::new();
    // A host program on Bob's ordinary socket is no guest.
    let mut client = pair.bob.client();
    client.write_all(b"LINK 22 5\n").unwrap();
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    // And a link takes nothing but its own line.
    for line in ["CONNECT 22\n", "LINK 22\n", "LINK 22 5 6\n"] {
        let mut device = UnixStream::connect(&pair.socket).unwrap();
        device
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        device.write_all(line.as_bytes()).unwrap();
        let mut rest = Vec::new();
        let _ = device.read_to_end(&mut rest);
        assert_eq!(rest, b"", "{line:?}");
    }
}

#[test]
fn another_device_may_answer_slowly_and_in_pieces() {
    let mut alice = Guest::new();
    alice.far_cid = BOB;
    let socket = alice.dir.path().join("bob");
    let listener = UnixListener::bind(&socket).unwrap();
    let peer = Peer {
        path: socket.to_str().unwrap().into(),
        connect: vec![1..=9],
        max_streams: 8,
        ..Peer::default()
    };
    alice
        .device
        .set_peers(table(BOB, peer), HashMap::new())
        .unwrap();
    alice.send(Op::Request, 1000, 1);
    let (mut device, _) = listener.accept().unwrap();
    let mut line = [0; 12];
    device.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"LINK 1 1000\n");
    device.write_all(b"O").unwrap();
    alice.expect_silence();
    device
        .write_all(b"K 7\nbytes behind it, more than a line holds")
        .unwrap();
    alice.expect(Op::Response);
    let behind = b"bytes behind it, more than a line holds";
    assert_eq!(alice.recv_bytes(behind.len()), behind);
    // Anything else is a refusal.
    for (port, answer) in [(2, "NO\n"), (3, "OK x\n"), (4, "")] {
        alice.send(Op::Request, 1000 + port, port);
        let (mut device, _) = listener.accept().unwrap();
        device.write_all(answer.as_bytes()).unwrap();
        drop(device);
        alice.expect(Op::Rst);
    }
}

#[test]
fn the_end_of_the_other_guest_is_seen() {
    let mut pair = Pair::new();
    pair.connect(1000);
    pair.bob.send_data(22, 1000, b"last words");
    pair.bob.device.close();
    assert_eq!(pair.alice.expect(Op::Rw).1, b"last words");
    pair.alice.expect(Op::Shutdown);
    pair.refused(1001, 22);
}

#[test]
fn a_listener_without_room_is_asked_again_for_who_was_answered() {
    let mut pair = Pair::new();
    // Bob never answered: a refusal is one.
    pair.alice.send(Op::Request, 1000, 22);
    pair.bob.expect(Op::Request);
    pair.bob.send(Op::Rst, 22, 1000);
    pair.alice.expect(Op::Rst);

    pair.connect(1001);
    pair.bob.send_data(22, 1001, b"welcome");
    pair.alice.expect_after_others(Op::Rw);
    pair.alice.send(Op::Request, 1002, 22);
    for _ in 0..3 {
        pair.bob.expect_after_others(Op::Request);
        pair.bob.send(Op::Rst, 22, 1002);
    }
    pair.bob.expect_after_others(Op::Request);
    pair.bob.send(Op::Response, 22, 1002);
    let opened = pair.alice.expect_after_others(Op::Response);
    assert_eq!(opened.dst_port, 1002);
}

#[test]
fn who_connects_too_fast_waits_and_is_served() {
    let mut pair = Pair::new();
    for from_port in 1000..1040 {
        pair.connect(from_port);
        // Bob's program never took it.
        pair.alice.shutdown(from_port, 22, SHUTDOWN_BOTH);
        pair.bob.expect_after_others(Op::Shutdown);
        pair.bob.send(Op::Rst, 22, from_port);
        pair.alice.expect_after_others(Op::Rst);
    }
}
