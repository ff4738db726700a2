// SPDX-License-Identifier: Apache-2.0
//! Flow: credit both ways, fairness, batching, bulk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic here is the failure report"
)]

mod guest;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use guest::{Guest, Options, eventually, fill, read_all};
use inn_vsock::connection::BUF_ALLOC;
use inn_vsock::packet::{Op, SHUTDOWN_BOTH};

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
}

#[test]
fn a_guest_hears_of_its_returned_buffers_though_nothing_comes_for_it() {
    let mut guest = Guest::new();
    let service = guest.service(1);
    let _socket = guest.dial(1000, &service, 1);
    eventually(|| guest.tx.call.read().is_ok());
    // EVENT_IDX: an interrupt for the next used buffer.
    let wish = guest.tx.avail_addr() + 4 + 128;
    vm_memory::Bytes::write_obj(&guest.memory, guest.tx.seen, vm_memory::GuestAddress(wish))
        .unwrap();
    guest.send(Op::CreditUpdate, 1000, 1);
    eventually(|| guest.tx.call.read().is_ok());
}
