// SPDX-License-Identifier: Apache-2.0
//! Streams in both directions: opening, credit, half-close, fairness.

mod guest;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use guest::{Guest, Options, eventually, fd, read_all, read_line};
use inn_vsock::connection::BUF_ALLOC;
use inn_vsock::packet::{CID_HOST, Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

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
fn the_device_stays_within_the_guests_credit() {
    let mut guest = Guest::new();
    guest.buf_alloc = 10_000;
    let (mut client, host_port) = guest.accept(5);
    client.write_all(&[7; 25_000]).unwrap();
    assert_eq!(guest.recv_bytes(10_000).len(), 10_000);
    guest.expect_silence();
    guest.fwd_cnt = 10_000;
    guest.send(Op::CreditUpdate, 5, host_port);
    assert_eq!(guest.recv_bytes(10_000).len(), 10_000);
    guest.expect_silence();
    guest.fwd_cnt = 20_000;
    guest.send(Op::CreditUpdate, 5, host_port);
    assert_eq!(guest.recv_bytes(5_000).len(), 5_000);
}

#[test]
fn a_full_stream_keeps_every_byte_and_an_overrun_ends_it() {
    let mut guest = Guest::new();
    let service = guest.service(1);
    let mut socket = guest.dial(1000, &service, 1);
    // The kernel's socket buffer takes some; the device promises BUF_ALLOC
    // beyond that, and tells so.
    let (mut sent, mut told) = (0u32, 0u32);
    let mut expected = Vec::new();
    while sent.wrapping_sub(told) < BUF_ALLOC {
        let chunk: Vec<u8> = (0..(BUF_ALLOC - (sent - told)).min(65536))
            .map(|i| (i + sent) as u8)
            .collect();
        guest.send_data(1000, 1, &chunk);
        expected.extend(&chunk);
        sent += chunk.len() as u32;
        while let Some((header, _)) = guest.try_recv(Duration::from_millis(5)) {
            assert_eq!(header.op, Op::CreditUpdate as u16);
            told = header.fwd_cnt;
        }
    }
    let mut received = vec![0; expected.len()];
    socket.read_exact(&mut received).unwrap();
    assert!(received == expected);
    let (update, _) = guest.expect(Op::CreditUpdate);
    assert!(sent - update.fwd_cnt <= BUF_ALLOC / 2);

    // Fill it again, then one byte too many.
    let mut told = update.fwd_cnt;
    loop {
        while let Some((header, _)) = guest.try_recv(Duration::from_millis(5)) {
            told = header.fwd_cnt;
        }
        let room = BUF_ALLOC - (sent - told);
        if room == 0 {
            break;
        }
        guest.send_data(1000, 1, &vec![1; room.min(65536) as usize]);
        sent += room.min(65536);
    }
    guest.send_data(1000, 1, &[2]);
    guest.expect(Op::Rst);
    let stats = guest.device.stats();
    assert_eq!(
        (stats.credit_violations, stats.reset, stats.connections_open),
        (1, 1, 0)
    );
}

#[test]
fn a_credit_request_is_answered() {
    let mut guest = Guest::new();
    let (_client, host_port) = guest.accept(5);
    guest.send(Op::CreditRequest, 5, host_port);
    assert_eq!(guest.expect(Op::CreditUpdate).0.buf_alloc, BUF_ALLOC);
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

/// Sends until the socket and the device's buffer hold `count` bytes in all.
fn fill(guest: &mut Guest, guest_port: u32, host_port: u32, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let chunk: Vec<u8> = (0..32768).map(|i| (i * 7 + all.len()) as u8).collect();
        guest.send_data(guest_port, host_port, &chunk);
        all.extend(chunk);
        while guest.try_recv(Duration::from_millis(2)).is_some() {}
    }
    all
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

#[test]
fn a_stuck_reader_stalls_nobody() {
    let mut guest = Guest::new();
    let service = guest.service(1);
    let _stuck = guest.dial(1000, &service, 1);
    fill(&mut guest, 1000, 1, 400 << 10);
    // The stuck one has credit left over; a fast one moves megabytes.
    let mut fast = guest.dial(1001, &service, 1);
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; 4 << 20];
        fast.read_exact(&mut bytes).unwrap();
        fast
    });
    let (mut sent, mut told) = (0u32, 0u32);
    while sent < 4 << 20 {
        while let Some((header, _)) = guest.try_recv(Duration::ZERO) {
            told = header.fwd_cnt;
        }
        if BUF_ALLOC - (sent - told) >= 65536 {
            guest.send_data(1001, 1, &[3; 65536]);
            sent += 65536;
        }
    }
    reader.join().unwrap();
}

#[test]
fn one_rx_buffer_at_a_time_is_enough_and_turns_are_fair() {
    let mut guest = Guest::with(Options {
        rx_buffers: 1,
        ..Options::default()
    });
    let (mut first, first_port) = guest.accept(5);
    let (mut second, second_port) = guest.accept(6);
    let (mut third, _) = guest.accept(7);
    first.write_all(&[1; 100_000]).unwrap();
    second.write_all(&[2; 100_000]).unwrap();
    // Whatever came first, from here on nobody waits longer than a round.
    for _ in 0..3 {
        guest.recv();
    }
    third.write_all(b"me too").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let order: Vec<u32> = (0..12).map(|_| guest.expect(Op::Rw).0.src_port).collect();
    let count = |port| order.iter().filter(|other| **other == port).count();
    assert!(
        count(first_port) >= 5 && count(second_port) >= 5,
        "{order:?}"
    );
    assert_eq!(
        order.len(),
        count(first_port) + count(second_port) + 1,
        "{order:?}"
    );
}

#[test]
fn an_empty_rx_ring_only_delays() {
    let mut guest = Guest::with(Options {
        rx_buffers: 0,
        ..Options::default()
    });
    guest.repost = false;
    let mut client = guest.client();
    client.write_all(b"CONNECT 5\n").unwrap();
    guest.expect_silence();
    guest.post_rx(1);
    guest.answer(5);
    client.write_all(&vec![6; 40_960]).unwrap();
    guest.expect_silence();
    for _ in 0..10 {
        guest.post_rx(1);
        assert_eq!(guest.expect(Op::Rw).1.len(), 4096);
        guest.expect_silence();
    }
}

#[test]
fn interrupts_and_kicks_are_batched() {
    let mut guest = Guest::new();
    let (mut client, _) = guest.accept(5);
    let _ = guest.rx.call.read();
    // EVENT_IDX: an interrupt when the used index passes 20 ahead.
    let wish = guest.rx.seen.wrapping_add(20);
    vm_memory::Bytes::write_obj(
        &guest.memory,
        wish,
        vm_memory::GuestAddress(guest.rx.avail_addr() + 4 + 128),
    )
    .unwrap();
    guest.repost = false;
    client.write_all(&vec![1; 4096 * 20]).unwrap();
    for _ in 0..20 {
        guest.expect(Op::Rw);
    }
    std::thread::sleep(Duration::from_millis(20));
    assert!(
        guest.rx.call.read().is_err(),
        "20 used buffers do not pass the mark"
    );
    client.write_all(&[1; 4096]).unwrap();
    eventually(|| guest.rx.call.read().is_ok());
}

#[test]
fn bulk_data_arrives_whole_and_in_order_both_ways() {
    let mut guest = Guest::new();
    guest.buf_alloc = 65536;
    let (client, host_port) = guest.accept(5);
    let data: Vec<u8> = (0..3_000_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut writer = client.try_clone().unwrap();
    let sent = data.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut reader = client;
    let reading = std::thread::spawn(move || read_all(&mut reader));
    // The guest echoes, keeping to both credits.
    let (mut back, mut told, mut waiting) = (0u32, 0u32, Vec::new());
    let mut ended = false;
    while !ended || !waiting.is_empty() {
        if let Some((header, payload)) = guest.try_recv(Duration::ZERO) {
            told = header.fwd_cnt;
            ended |= header.op == Op::Shutdown as u16;
            waiting.extend(payload);
        }
        let room = (BUF_ALLOC - (back - told)) as usize;
        let chunk: Vec<u8> = waiting.drain(..waiting.len().min(room).min(8192)).collect();
        if !chunk.is_empty() {
            back += chunk.len() as u32;
            guest.fwd_cnt = back;
            guest.send_data(5, host_port, &chunk);
        }
    }
    guest.shutdown(5, host_port, SHUTDOWN_BOTH);
    writing.join().unwrap();
    assert!(reading.join().unwrap() == data);
    guest.expect(Op::Rst);
    assert_eq!(guest.device.stats().bytes_to_guest, 3_000_000);
    assert_eq!(CID_HOST, 2);
}
