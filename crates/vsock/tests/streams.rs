// SPDX-License-Identifier: Apache-2.0
//! Streams in both directions: opening, credit, half-close, fairness.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic here is the failure report"
)]

mod guest;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use guest::{Guest, Options, eventually, fd, fill, read_all, read_line};
use inn_vsock::packet::{Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

#[test]
fn a_client_reaches_the_guest_and_loses_nothing() {
    let mut guest = Guest::new();
    let mut client = guest.client();
    client.write_all(b"CONNECT 9001\nsent at once").unwrap();
    let host_port = guest.answer(9001);
    assert_eq!(guest.expect(Op::Rw).1, b"sent at once");
    client.write_all(b" and later").unwrap();
    assert_eq!(guest.expect(Op::Rw).1, b" and later");
    guest.send_data(9001, host_port, b"answer");
    assert_eq!(read_line(&mut client), format!("OK {host_port}\n"));
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    let stats = guest.device.stats();
    assert_eq!((stats.connections_open, stats.connections_total), (1, 1));
    assert_eq!((stats.bytes_to_guest, stats.bytes_to_host), (22, 6));
}

#[test]
fn a_refusal_closes_the_client_without_ok_at_once() {
    let mut guest = Guest::new();
    let mut client = guest.client();
    client.write_all(b"CONNECT 1\n").unwrap();
    let (request, _) = guest.expect(Op::Request);
    let start = Instant::now();
    guest.send(Op::Rst, 1, request.src_port);
    assert_eq!(read_all(&mut client), b"");
    assert!(start.elapsed() < Duration::from_millis(100));
    assert_eq!(guest.device.stats().refused, 1);
}

#[test]
fn only_the_client_that_misbehaves_is_closed() {
    let mut guest = Guest::new();
    let mut slow = guest.client();
    slow.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    slow.write_all(b"CONN").unwrap();
    let start = Instant::now();
    for line in [
        "CONNECT x\n",
        "GET / HTTP/1.1\r\n",
        "CONNECT 4294967296\n",
        "CONNECT 00000000000000000000000000000000000",
    ] {
        let mut client = guest.client();
        client.write_all(line.as_bytes()).unwrap();
        let mut rest = Vec::new();
        // Unread bytes of a closed socket show as a reset.
        let _ = client.read_to_end(&mut rest);
        assert_eq!(rest, b"", "{line:?}");
    }
    guest.accept(5);
    assert_eq!(slow.read(&mut [0; 8]).unwrap(), 0);
    let elapsed = start.elapsed();
    assert!(
        (Duration::from_millis(4900)..Duration::from_secs(7)).contains(&elapsed),
        "{elapsed:?}"
    );
}

#[test]
fn a_published_socket_needs_no_line() {
    let mut guest = Guest::new();
    let path = guest.dir.path().join("published");
    let listener = UnixListener::bind(&path).unwrap();
    guest.device.publish(fd(listener), 8888).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"CONNECT 1\n").unwrap();
    let host_port = guest.answer(8888);
    assert_eq!(
        guest.expect(Op::Rw).1,
        b"CONNECT 1\n",
        "payload like any other"
    );
    guest.send_data(8888, host_port, b"no OK before me");
    let mut answer = [0; 15];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"no OK before me");
}

#[test]
fn the_guest_reaches_services_and_nothing_else() {
    let mut guest = Guest::new();
    let service = guest.service(7777);
    let mut socket = guest.dial(1000, &service, 7777);
    guest.send_data(1000, 7777, b"hello");
    let mut hello = [0; 5];
    socket.read_exact(&mut hello).unwrap();
    socket.write_all(b"hi").unwrap();
    assert_eq!(guest.expect(Op::Rw).1, b"hi");

    guest.send(Op::Request, 1001, 7778);
    let (reset, _) = guest.expect(Op::Rst);
    assert_eq!((reset.src_port, reset.dst_port), (7778, 1001));
    let other = Header {
        dst_cid: 43,
        ..guest.header(Op::Request, 1002, 7777)
    };
    guest.send_raw(&other, &[]);
    let (reset, _) = guest.recv();
    assert_eq!(
        (reset.op, reset.src_cid, reset.src_port),
        (Op::Rst as u16, 43, 7777)
    );
    assert_eq!(guest.device.stats().refused, 2);
}

#[test]
fn a_service_with_a_full_backlog_is_tried_again() {
    let mut guest = Guest::new();
    let service = guest.service(1);
    rustix::net::listen(&service, 0).unwrap();
    for port in 0..3 {
        guest.send(Op::Request, port, 1);
    }
    guest.expect(Op::Response);
    guest.expect_silence();
    let _sockets: Vec<_> = (0..3).map(|_| service.accept().unwrap()).collect();
    guest.expect(Op::Response);
    guest.expect(Op::Response);
}

#[test]
fn local_end_of_file_closes_one_direction_only() {
    let mut guest = Guest::new();
    let (mut client, host_port) = guest.accept(5);
    client.write_all(b"last words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect(Op::Rw).1, b"last words");
    assert_eq!(guest.expect(Op::Shutdown).0.flags, SHUTDOWN_SEND);
    guest.send_data(5, host_port, b"still here");
    guest.shutdown(5, host_port, SHUTDOWN_SEND);
    assert_eq!(read_all(&mut client), b"still here");
    guest.expect(Op::Rst);
    let stats = guest.device.stats();
    assert_eq!((stats.connections_open, stats.reset), (0, 0));
}

#[test]
fn guest_end_of_file_closes_one_direction_only() {
    let mut guest = Guest::new();
    let (mut client, host_port) = guest.accept(5);
    guest.send_data(5, host_port, b"done");
    guest.shutdown(5, host_port, SHUTDOWN_SEND);
    assert_eq!(read_all(&mut client), b"done");
    client.write_all(b"not me").unwrap();
    assert_eq!(guest.expect(Op::Rw).1, b"not me");
    drop(client);
    assert_eq!(
        guest.expect(Op::Shutdown).0.flags & SHUTDOWN_SEND,
        SHUTDOWN_SEND
    );
    guest.expect(Op::Rst);
}

#[test]
fn a_close_is_confirmed_only_after_delivery() {
    let mut guest = Guest::new();
    let service = guest.service(1);
    let mut socket = guest.dial(1000, &service, 1);
    let all = fill(&mut guest, 1000, 1, 400 << 10);
    guest.shutdown(1000, 1, SHUTDOWN_BOTH);
    guest.expect_silence();
    assert!(read_all(&mut socket) == all);
    while guest.recv().0.op != Op::Rst as u16 {}
    assert_eq!(guest.device.stats().reset, 0);
}

#[test]
fn a_reset_after_shutdown_still_delivers() {
    let mut guest = Guest::new();
    let service = guest.service(1);
    let mut socket = guest.dial(1000, &service, 1);
    let all = fill(&mut guest, 1000, 1, 400 << 10);
    guest.shutdown(1000, 1, SHUTDOWN_BOTH);
    guest.send(Op::Rst, 1000, 1);
    // The guest may use its port again while the old bytes drain.
    let mut again = guest.dial(1000, &service, 1);
    assert!(read_all(&mut socket) == all);
    guest.send_data(1000, 1, b"new");
    let mut new = [0; 3];
    again.read_exact(&mut new).unwrap();
    assert_eq!(
        (
            guest.device.stats().reset,
            guest.device.stats().connections_open
        ),
        (0, 1)
    );
}

#[test]
fn an_abrupt_reset_closes_the_client() {
    let mut guest = Guest::new();
    let (mut client, host_port) = guest.accept(5);
    guest.send(Op::Rst, 5, host_port);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(
        client.write(b"x").unwrap_err().kind(),
        std::io::ErrorKind::BrokenPipe
    );

    guest.buf_alloc = 0;
    let (mut client, host_port) = guest.accept(6);
    client.write_all(b"never read").unwrap();
    guest.send(Op::Rst, 6, host_port);
    assert_eq!(
        client.read(&mut [0; 8]).unwrap_err().kind(),
        std::io::ErrorKind::ConnectionReset
    );
    assert_eq!(guest.device.stats().reset, 2);
}

#[test]
fn a_closing_client_delivers_first() {
    let mut guest = Guest::new();
    let (mut client, host_port) = guest.accept(5);
    client.write_all(&[9; 20_000]).unwrap();
    drop(client);
    let mut bytes = 0;
    let mut told = 0;
    while told != SHUTDOWN_BOTH {
        let (header, payload) = guest.recv();
        bytes += payload.len();
        told |= header.flags;
        // A packet under way to the reader that left must not end it all.
        if told == 0 {
            guest.send_data(5, host_port, b"too late");
        }
    }
    assert_eq!(bytes, 20_000);
    guest.send(Op::Rst, 5, host_port);
    eventually(|| guest.device.stats().connections_open == 0);
    assert_eq!(guest.device.stats().reset, 0);
}

#[test]
fn a_client_that_fires_and_forgets_is_heard() {
    let mut guest = Guest::with(Options {
        rx_buffers: 0,
        ..Options::default()
    });
    let mut client = guest.client();
    client.write_all(b"CONNECT 5\nfire").unwrap();
    drop(client);
    let gone = guest.client();
    (&gone).write_all(b"CONNECT 6\n").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    drop(gone);
    std::thread::sleep(Duration::from_millis(20));
    guest.post_rx(8);
    guest.answer(5);
    let mut heard = Vec::new();
    let mut told = 0;
    while told != SHUTDOWN_BOTH {
        let (header, payload) = guest.recv();
        assert_ne!(
            header.dst_port, 6,
            "the client that only asked is forgotten"
        );
        heard.extend(payload);
        told |= header.flags;
    }
    assert_eq!(heard, b"fire");
}

#[test]
fn a_client_that_breaks_off_resets_the_guest() {
    let mut guest = Guest::new();
    let (client, host_port) = guest.accept(5);
    guest.send_data(5, host_port, b"never read");
    eventually(|| guest.device.stats().bytes_to_host == 10);
    drop(client);
    while guest.recv().0.op != Op::Rst as u16 {}
    assert_eq!(guest.device.stats().reset, 1);
}

#[test]
fn a_client_that_stops_reading_is_passed_on() {
    let mut guest = Guest::new();
    let (mut client, host_port) = guest.accept(5);
    client.shutdown(Shutdown::Read).unwrap();
    guest.send_data(5, host_port, b"into the void");
    assert_eq!(guest.expect(Op::Shutdown).0.flags, SHUTDOWN_RECEIVE);
    client.write_all(b"but I talk").unwrap();
    assert_eq!(guest.expect(Op::Rw).1, b"but I talk");
}
