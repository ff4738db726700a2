// SPDX-License-Identifier: Apache-2.0
//! Guests that break rules: nothing panics, nothing blocks, others go on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic here is the failure report"
)]

mod guest;

use std::io::{Read, Write};
use std::time::Duration;

use guest::{CID, Guest, NEXT, Options, WRITE, eventually};
use inn_vsock::packet::{HEADER_LEN, Header, Op};
use vm_memory::{Bytes, GuestAddress};

#[test]
fn forged_sources_are_dropped_and_counted() {
    let mut guest = Guest::new();
    let _service = guest.service(1);
    for src_cid in [0, 1, 2, CID + 1, CID | 1 << 32, u64::MAX] {
        let header = Header {
            src_cid,
            ..guest.header(Op::Request, 9, 1)
        };
        guest.send_raw(&header, &[]);
    }
    guest.expect_silence();
    assert_eq!(guest.device.stats().forged_cid, 6);
}

#[test]
fn strays_are_reset_but_resets_are_not() {
    let mut guest = Guest::new();
    for op in [
        Op::Response,
        Op::Rw,
        Op::Shutdown,
        Op::CreditUpdate,
        Op::CreditRequest,
    ] {
        guest.send(op, 9, 1);
        guest.expect(Op::Rst);
    }
    for (op, socket_type) in [(0, 1), (8, 1), (u16::MAX, 1), (1, 2), (1, 0)] {
        let header = Header {
            op,
            socket_type,
            ..guest.header(Op::Request, 9, 1)
        };
        guest.send_raw(&header, &[]);
        assert_eq!(guest.expect(Op::Rst).0.socket_type, socket_type);
    }
    guest.send(Op::Rst, 9, 1);
    let header = Header {
        dst_cid: 99,
        ..guest.header(Op::Rst, 9, 1)
    };
    guest.send_raw(&header, &[]);
    guest.expect_silence();
}

#[test]
fn a_duplicate_request_ends_the_stream_and_frees_its_ports() {
    let mut guest = Guest::new();
    let service = guest.service(1);
    let mut old = guest.dial(9, &service, 1);
    guest.send(Op::Request, 9, 1);
    guest.expect(Op::Rst);
    assert_eq!(old.read(&mut [0; 1]).unwrap(), 0);
    let mut new = guest.dial(9, &service, 1);
    guest.send_data(9, 1, b"x");
    new.read_exact(&mut [0; 1]).unwrap();
    assert_eq!(guest.device.stats().connections_open, 1);
}

#[test]
fn the_table_has_an_end() {
    let mut guest = Guest::with(Options {
        max_connections: 3,
        ..Options::default()
    });
    let service = guest.service(1);
    let sockets: Vec<_> = (0..3).map(|port| guest.dial(port, &service, 1)).collect();
    guest.send(Op::Request, 3, 1);
    guest.expect(Op::Rst);
    let mut client = guest.client();
    client.write_all(b"CONNECT 1\n").unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(guest.device.stats().refused, 2);
    guest.send(Op::Rst, 0, 1);
    guest.dial(3, &service, 1);
    drop(sockets);
}

#[test]
fn handshakes_have_an_end_too() {
    let guest = Guest::with(Options {
        max_connections: 2,
        ..Options::default()
    });
    let _waiting = [guest.client(), guest.client()];
    std::thread::sleep(Duration::from_millis(20));
    let mut third = guest.client();
    assert_eq!(third.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_length_beyond_the_chain_ends_the_stream() {
    let mut guest = Guest::new();
    let service = guest.service(1);
    let _socket = guest.dial(9, &service, 1);
    let header = Header {
        len: 100,
        ..guest.header(Op::Rw, 9, 1)
    };
    guest.send_raw(&header, b"only these");
    guest.expect(Op::Rst);
    let stats = guest.device.stats();
    assert_eq!((stats.packets_dropped, stats.reset), (1, 1));
}

/// Writes one TX chain out of raw descriptors and waits until it is used.
fn send_descriptors(guest: &mut Guest, descriptors: &[(u64, u32, u16, u16)]) {
    for (index, (addr, len, flags, next)) in descriptors.iter().enumerate() {
        guest.write_descriptor(&guest.tx, index as u16, *addr, *len, *flags, *next);
    }
    guest.send_chain(0);
    guest.wait_tx();
}

#[test]
fn malformed_chains_are_dropped_one_by_one() {
    let mut guest = Guest::new();
    let at = guest.tx.buffers;
    let header = guest.header(Op::Request, 9, 1);
    guest
        .memory
        .write_slice(&header.encode(), GuestAddress(at))
        .unwrap();
    let chains: &[&[(u64, u32, u16, u16)]] = &[
        &[(at, HEADER_LEN as u32 - 1, 0, 0)],
        &[(at, 0, 0, 0)],
        &[(at, 44, WRITE, 0)],
        &[(at, 20, NEXT, 1), (at + 20, 24, WRITE, 0)],
        &[(1 << 40, 44, 0, 0)],
        &[(u64::MAX - 10, 44, 0, 0)],
        &[((16 << 20) - 10, 44, 0, 0)],
        &[(at, u32::MAX, 0, 0)],
        &[(at, 0, NEXT, 0)],
        &[(at, 44, 4, 0)],
        &[(at, 32, 4, 0)],
        &[(u64::MAX - 15, 16, 4, 0)],
    ];
    for chain in chains {
        send_descriptors(&mut guest, chain);
    }
    assert_eq!(guest.device.stats().packets_dropped, chains.len() as u64);
    guest.expect_silence();
    // The header may be scattered, though: only its bytes count.
    send_descriptors(
        &mut guest,
        &[(at, 1, NEXT, 1), (at + 1, 0, NEXT, 2), (at + 1, 43, 0, 0)],
    );
    guest.expect(Op::Rst);
    assert_eq!(guest.device.stats().broken_queues, 0);
}

#[test]
fn a_packet_in_many_pieces_is_whole() {
    let mut guest = Guest::new();
    let service = guest.service(1);
    let mut socket = guest.dial(9, &service, 1);
    let at = guest.tx.buffers;
    let header = Header {
        len: 300,
        ..guest.header(Op::Rw, 9, 1)
    };
    let payload: Vec<u8> = (0..300u32).map(|i| i as u8).collect();
    guest
        .memory
        .write_slice(&header.encode(), GuestAddress(at))
        .unwrap();
    guest
        .memory
        .write_slice(&payload, GuestAddress(at + 44))
        .unwrap();
    let pieces: Vec<_> = (0..43u16)
        .map(|i| {
            (
                at + u64::from(i) * 8,
                8,
                if i == 42 { 0 } else { NEXT },
                i + 1,
            )
        })
        .collect();
    send_descriptors(&mut guest, &pieces);
    let mut received = vec![0; 300];
    socket.read_exact(&mut received).unwrap();
    assert_eq!(received, payload);
}

#[test]
fn useless_rx_buffers_are_returned_unused() {
    let mut guest = Guest::with(Options {
        rx_buffers: 0,
        ..Options::default()
    });
    let service = guest.service(1);
    for (len, flags) in [(44, WRITE), (0, WRITE), (4096, 0), (u32::MAX, WRITE)] {
        guest.write_descriptor(&guest.rx, 0, guest.rx.buffers, len, flags, 0);
        let entry = guest.rx.avail_addr() + 4 + u64::from(guest.rx.avail) * 2;
        guest.memory.write_obj(0u16, GuestAddress(entry)).unwrap();
        guest.rx.avail += 1;
        guest
            .memory
            .write_obj(guest.rx.avail, GuestAddress(guest.rx.avail_addr() + 2))
            .unwrap();
    }
    guest.rx.kick.write(1).unwrap();
    guest.send(Op::Request, 9, 1);
    eventually(|| guest.device.stats().packets_dropped == 4);
    guest.rx.seen = 4;
    guest.post_rx(4);
    guest.expect(Op::Response);
    drop(service);
}

#[test]
fn a_broken_tx_ring_stops_that_queue_only() {
    let mut guest = Guest::new();
    let (mut client, _) = guest.accept(5);
    // An avail index further ahead than the ring is long.
    guest
        .memory
        .write_obj(
            guest.tx.avail.wrapping_add(1000),
            GuestAddress(guest.tx.avail_addr() + 2),
        )
        .unwrap();
    guest.tx.kick.write(1).unwrap();
    eventually(|| guest.device.stats().broken_queues == 1);
    client.write_all(b"one way").unwrap();
    assert_eq!(guest.expect(Op::Rw).1, b"one way");
    guest.device.close();
}

#[test]
fn a_head_beyond_the_ring_stops_that_queue() {
    let mut guest = Guest::new();
    guest.send_chain(60_000);
    eventually(|| guest.device.stats().broken_queues == 1);
    // A guest that starts over gets a working queue.
    for index in 0..2 {
        guest::Guest::stop_ring(&mut guest, index);
    }
    guest.start_rings();
    guest.post_rx(8);
    guest.send(Op::Request, 9, 1);
    guest.expect(Op::Rst);
}

#[test]
fn a_flood_of_strays_waits_for_rx_buffers() {
    let mut guest = Guest::with(Options {
        rx_buffers: 0,
        ..Options::default()
    });
    // 256 resets fill the backlog; after that TX chains stay where they are.
    for _ in 0..256 {
        guest.send(Op::Rw, 9, 1);
    }
    let header = guest.header(Op::Rw, 10, 1);
    let at = guest.tx.buffers;
    guest
        .memory
        .write_slice(&header.encode(), GuestAddress(at))
        .unwrap();
    guest.write_descriptor(&guest.tx, 0, at, 44, 0, 0);
    guest.send_chain(0);
    std::thread::sleep(Duration::from_millis(50));
    guest.post_rx(16);
    for _ in 0..256 {
        assert_eq!(guest.expect(Op::Rst).0.dst_port, 9);
    }
    assert_eq!(guest.expect(Op::Rst).0.dst_port, 10);
}

/// xorshift64*: deterministic, and good enough to reach odd corners.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

fn random_header(random: &mut Random, guest: &Guest) -> Header {
    Header {
        src_cid: random.pick(&[CID, CID, CID, CID, 2, u64::MAX]),
        dst_cid: random.pick(&[2, 2, 2, 2, CID, 0]),
        src_port: random.below(4) as u32,
        dst_port: random.pick(&[1, 1, 1, 2, 1 << 30, (1 << 30) + 1]),
        len: random.pick(&[0, 1, 100, 4096, 65536, u32::MAX]),
        socket_type: random.pick(&[1, 1, 1, 1, 1, 2]),
        op: random.below(9) as u16,
        flags: random.below(4) as u32,
        buf_alloc: random.pick(&[0, 1, 4096, u32::MAX]),
        fwd_cnt: random.pick(&[0, guest.fwd_cnt, u32::MAX]),
    }
}

#[test]
fn random_packets_and_chains_do_no_harm() {
    for seed in 1..=4u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut guest = Guest::with(Options {
            max_connections: 8,
            ..Options::default()
        });
        let service = guest.service(1);
        service.set_nonblocking(true).unwrap();
        let mut sockets = Vec::new();
        for round in 0..3000u32 {
            let header = random_header(&mut random, &guest);
            let at = guest.tx.buffers;
            guest
                .memory
                .write_slice(&header.encode(), GuestAddress(at))
                .unwrap();
            let extra = random.pick(&[0, 1, 100, 4096, 65536]);
            let descriptors = match random.below(8) {
                0 => vec![(
                    random.next(),
                    random.next() as u32,
                    random.below(8) as u16,
                    random.below(70) as u16,
                )],
                1 => vec![
                    (at, 44, NEXT, random.below(3) as u16),
                    (at + 44, extra, random.below(8) as u16, 2),
                ],
                _ => vec![(at, 44, NEXT, 1), (at + 44, extra, 0, 0)],
            };
            send_descriptors(&mut guest, &descriptors);
            while guest.try_recv(Duration::ZERO).is_some() {}
            if let Ok((socket, _)) = service.accept() {
                sockets.push(socket);
            }
            if round % 50 == 0 {
                sockets.clear();
                let mut client = guest.client();
                let _ = client.write_all(b"CONNECT 1\n");
            }
        }
        // The device still serves.
        drop(sockets);
        for port in 0..4 {
            for host_port in [1, 2, 1 << 30, (1 << 30) + 1] {
                guest.send(Op::Rst, port, host_port);
            }
        }
        let stats = guest.device.stats();
        assert_eq!(stats.broken_queues, 0, "{stats:?}");
        assert!(stats.connections_total > 0, "{stats:?}");
        guest.device.close();
        assert_eq!(guest.device.stats().connections_open, 0);
    }
}
