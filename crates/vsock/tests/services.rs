// SPDX-License-Identifier: Apache-2.0
//! Services of the host that a table declares: dialled by the device, judged, cut.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic here is the failure report"
)]

mod guest;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use guest::{Guest, eventually};
use inn_vsock::packet::{Op, SHUTDOWN_SEND};
use inn_vsock::{Peer, Target, Verdict};

/// What the guest calls the two services.
const TCP: u32 = 80;
const UNIX: u32 = 81;

struct Host {
    guest: Guest,
    tcp: TcpListener,
    unix: UnixListener,
}

impl Host {
    /// A guest that may have two streams to these ports.
    fn new(allowed: &[u32]) -> Self {
        let guest = Guest::new();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let unix = UnixListener::bind(guest.dir.path().join("service")).unwrap();
        let host = Self { guest, tcp, unix };
        host.allow(allowed);
        host
    }

    fn targets(&self) -> HashMap<u32, Target> {
        let path = self.guest.dir.path().join("service");
        let tcp = format!("tcp:{}", self.tcp.local_addr().unwrap());
        let unix = format!("unix:{}", path.to_str().unwrap());
        let parse = |text: &str| Target::parse(text).unwrap();
        HashMap::from([(TCP, parse(&tcp)), (UNIX, parse(&unix))])
    }

    fn allow(&self, ports: &[u32]) {
        self.set(ports, self.targets());
    }

    fn set(&self, ports: &[u32], targets: HashMap<u32, Target>) {
        let row = Peer {
            connect: ports.iter().map(|port| *port..=*port).collect(),
            max_streams: 2,
            ..Peer::default()
        };
        let table = HashMap::from([(2, row)]);
        self.guest.device.set_peers(table, targets).unwrap();
    }

    fn connect_tcp(&mut self, from_port: u32) -> TcpStream {
        self.guest.send(Op::Request, from_port, TCP);
        self.guest.expect_after_others(Op::Response);
        let (socket, _) = self.tcp.accept().unwrap();
        let patience = Some(Duration::from_secs(10));
        socket.set_read_timeout(patience).unwrap();
        socket
    }

    fn refused(&mut self, from_port: u32, port: u32) {
        self.guest.send(Op::Request, from_port, port);
        let reset = self.guest.expect_after_others(Op::Rst);
        assert_eq!((reset.src_port, reset.dst_port), (port, from_port));
    }

    fn verdicts(&self) -> Vec<(u64, u32, Verdict)> {
        let (decisions, lost) = self.guest.device.decisions().take();
        assert_eq!(lost, 0);
        assert!(decisions.iter().all(|one| one.outgoing));
        decisions
            .iter()
            .map(|one| (one.peer_cid, one.port, one.verdict))
            .collect()
    }
}

#[test]
fn bytes_pass_both_ways_and_each_half_ends_alone() {
    let mut host = Host::new(&[TCP]);
    let mut socket = host.connect_tcp(1000);
    host.guest.send_data(1000, TCP, b"to the service");
    host.guest.shutdown(1000, TCP, SHUTDOWN_SEND);
    let mut got = Vec::new();
    socket.read_to_end(&mut got).unwrap();
    assert_eq!(got, b"to the service");
    socket.write_all(b"and back").unwrap();
    assert_eq!(host.guest.expect_after_others(Op::Rw).len, 8);
    drop(socket);
    // Both sides are done: the stream ends by itself.
    host.guest.expect_after_others(Op::Rst);
    assert_eq!(host.verdicts(), [(2, TCP, Verdict::Allowed)]);
}

#[test]
fn a_unix_service_is_dialled_by_its_own_path() {
    let mut host = Host::new(&[UNIX]);
    host.guest.send(Op::Request, 1000, UNIX);
    host.guest.expect_after_others(Op::Response);
    let (mut socket, _) = host.unix.accept().unwrap();
    host.guest.send_data(1000, UNIX, b"x");
    socket.read_exact(&mut [0]).unwrap();
}

#[test]
fn what_no_rule_allows_is_as_absent_as_a_service_that_is_gone() {
    let mut host = Host::new(&[TCP]);
    host.refused(1000, UNIX);
    let targets = host.targets();
    host.tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    host.set(&[TCP], targets);
    host.refused(1001, TCP);
    let told = [(2, UNIX, Verdict::Denied), (2, TCP, Verdict::Allowed)];
    assert_eq!(host.verdicts(), told);
    eventually(|| host.guest.device.stats().connections_open == 0);
}

#[test]
fn a_quota_counts_services_alone() {
    let mut host = Host::new(&[TCP]);
    // A door that no table speaks of, and the host's own wish.
    let door = host.guest.service(7);
    let _by_hand = host.guest.dial(5, &door, 7);
    let _asked = host.guest.accept(22);
    let first = host.connect_tcp(1000);
    let _second = host.connect_tcp(1001);
    host.refused(1002, TCP);
    let over = (2, TCP, Verdict::OverQuota);
    assert_eq!(host.verdicts().last(), Some(&over));
    host.guest.send(Op::Rst, 1000, TCP);
    drop(first);
    let _third = host.connect_tcp(1003);
}

#[test]
fn a_new_table_cuts_streams_to_services() {
    let mut host = Host::new(&[TCP]);
    let door = host.guest.service(7);
    let mut by_hand = host.guest.dial(5, &door, 7);
    let mut socket = host.connect_tcp(1000);
    host.allow(&[UNIX]);
    host.guest.expect_after_others(Op::Rst);
    assert_eq!(socket.read(&mut [0]).unwrap_or(0), 0);
    // A service that is none any more is gone too.
    host.allow(&[TCP]);
    let _socket = host.connect_tcp(1001);
    host.set(&[TCP], HashMap::new());
    host.guest.expect_after_others(Op::Rst);
    assert_eq!(host.guest.device.stats().cut, 2);
    // The door stays open, until its port becomes a service that no rule opens.
    host.guest.send_data(5, 7, b"x");
    by_hand.read_exact(&mut [0]).unwrap();
    let target = Target::parse("tcp:127.0.0.1:9").unwrap();
    host.set(&[TCP], HashMap::from([(7, target)]));
    host.guest.expect_after_others(Op::Rst);
    assert_eq!(host.guest.device.stats().cut, 3);
}
