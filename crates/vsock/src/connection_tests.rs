// SPDX-License-Identifier: Apache-2.0
//! Tests of one stream's state machine, by value.

use super::*;
use crate::packet::CID_HOST;

fn from_host(guest_port: u32, far_port: u32) -> Key {
    Key {
        far_cid: CID_HOST,
        far_port,
        guest_port,
    }
}

fn packet(op: Op, len: u32, buf_alloc: u32, fwd_cnt: u32) -> Header {
    Header {
        src_cid: 3,
        dst_cid: CID_HOST,
        src_port: 1000,
        dst_port: 7777,
        len,
        socket_type: TYPE_STREAM,
        op: op as u16,
        flags: 0,
        buf_alloc,
        fwd_cnt,
    }
}

fn feed(connection: &mut Connection, header: &Header) -> Reaction {
    connection.on_packet(header, Op::from_wire(header.op))
}

fn open() -> Connection {
    let mut connection = Connection::from_guest(&packet(Op::Request, 0, 1000, 0));
    connection.local_connected();
    assert_eq!(ops(&mut connection), [Op::Response]);
    connection
}

fn ops(connection: &mut Connection) -> Vec<Op> {
    let mut ops = Vec::new();
    while connection.has_control() && connection.phase() != Phase::Ending {
        ops.push(Op::from_wire(connection.next_control().unwrap().op).unwrap());
    }
    if connection.phase() == Phase::Ending {
        ops.push(Op::Rst);
    }
    ops
}

fn shutdown(flags: u32) -> Header {
    Header {
        flags,
        ..packet(Op::Shutdown, 0, 1000, 0)
    }
}

#[test]
fn the_host_opens_a_stream() {
    let mut connection = Connection::to_guest(3, from_host(22, 1 << 30));
    assert!(!connection.guest_knows());
    let request = connection.next_control().unwrap();
    assert_eq!(
        (request.op, request.src_port, request.dst_port),
        (1, 1 << 30, 22)
    );
    assert_eq!(
        (request.src_cid, request.dst_cid, request.buf_alloc),
        (2, 3, BUF_ALLOC)
    );
    assert!(connection.guest_knows());
    assert!(!connection.can_send());
    assert_eq!(
        feed(&mut connection, &packet(Op::Response, 0, 10, 0)),
        Reaction::Opened
    );
    assert!(connection.can_send());
    assert_eq!(connection.credit(), 10);
}

#[test]
fn credit_to_the_guest_wraps_and_never_goes_negative() {
    let mut connection = open();
    connection.sent = u32::MAX - 9;
    feed(
        &mut connection,
        &packet(Op::CreditUpdate, 0, 100, u32::MAX - 19),
    );
    assert_eq!(connection.credit(), 90);
    connection.payload_header(90);
    assert_eq!(connection.sent, 80);
    assert_eq!(connection.credit(), 0);
    feed(&mut connection, &packet(Op::CreditUpdate, 0, 100, 80));
    assert_eq!(connection.credit(), 100);
    // A shrunken buffer and a counter from the future leave nothing.
    connection.payload_header(60);
    feed(&mut connection, &packet(Op::CreditUpdate, 0, 50, 80));
    assert_eq!(connection.credit(), 0);
    feed(&mut connection, &packet(Op::CreditUpdate, 0, 50, 1000));
    assert_eq!(connection.credit(), 0);
}

#[test]
fn the_guest_may_fill_the_buffer_exactly() {
    let mut connection = open();
    connection.received = u32::MAX - 5;
    connection.forwarded = u32::MAX - 5;
    connection.advertised = u32::MAX - 5;
    assert_eq!(
        feed(&mut connection, &packet(Op::Rw, BUF_ALLOC, 1, 0)),
        Reaction::Deliver
    );
    assert_eq!(connection.buffered(), BUF_ALLOC);
    assert_eq!(
        feed(&mut connection, &packet(Op::Rw, 1, 1, 0)),
        Reaction::Overrun
    );
    assert_eq!(ops(&mut connection), [Op::Rst]);
}

#[test]
fn an_absurd_length_is_an_overrun() {
    assert_eq!(
        feed(&mut open(), &packet(Op::Rw, u32::MAX, 1, 0)),
        Reaction::Overrun
    );
}

#[test]
fn updates_are_sent_when_space_runs_low_and_not_before() {
    let mut connection = open();
    feed(&mut connection, &packet(Op::Rw, 1000, 1, 0));
    connection.forwarded(1000);
    assert!(
        !connection.has_control(),
        "a small transfer costs no update"
    );
    feed(&mut connection, &packet(Op::Rw, UPDATE_BELOW, 1, 0));
    let update = connection.next_control().unwrap();
    assert_eq!((update.op, update.fwd_cnt), (Op::CreditUpdate as u16, 1000));
    assert!(!connection.has_control(), "nothing new to tell");
    feed(&mut connection, &packet(Op::Rw, 1000, 1, 0));
    connection.forwarded(UPDATE_BELOW);
    assert_eq!(ops(&mut connection), [Op::CreditUpdate]);
}

#[test]
fn payload_carries_the_update() {
    let mut connection = open();
    feed(&mut connection, &packet(Op::Rw, BUF_ALLOC, 1000, 0));
    connection.forwarded(BUF_ALLOC);
    assert!(connection.has_control());
    assert_eq!(connection.payload_header(10).fwd_cnt, BUF_ALLOC);
    assert!(!connection.has_control());
}

#[test]
fn a_credit_request_is_answered() {
    let mut connection = open();
    feed(&mut connection, &packet(Op::CreditRequest, 0, 1, 0));
    assert_eq!(ops(&mut connection), [Op::CreditUpdate]);
}

#[test]
fn local_end_of_file_leaves_the_other_direction_open() {
    let mut connection = open();
    connection.local_sent_all();
    let packet_out = connection.next_control().unwrap();
    assert_eq!(
        (packet_out.op, packet_out.flags),
        (Op::Shutdown as u16, SHUTDOWN_SEND)
    );
    assert!(!connection.has_control(), "told once");
    assert_eq!(
        feed(&mut connection, &packet(Op::Rw, 5, 1, 0)),
        Reaction::Deliver
    );
    connection.forwarded(5);
    assert!(!connection.finish_if_done());
    feed(&mut connection, &shutdown(SHUTDOWN_SEND));
    assert!(connection.finish_if_done());
    assert_eq!(ops(&mut connection), [Op::Rst]);
}

#[test]
fn guest_end_of_file_leaves_the_other_direction_open() {
    let mut connection = open();
    feed(&mut connection, &shutdown(SHUTDOWN_SEND));
    assert!(connection.guest_sent_all() && !connection.guest_stopped_reading());
    assert!(connection.can_send() && !connection.finish_if_done());
    assert_eq!(
        feed(&mut connection, &packet(Op::Rw, 1, 1000, 0)),
        Reaction::Violation
    );
}

#[test]
fn a_full_close_is_confirmed_after_delivery() {
    let mut connection = open();
    feed(&mut connection, &packet(Op::Rw, 7, 1000, 0));
    feed(&mut connection, &shutdown(SHUTDOWN_BOTH));
    assert!(!connection.can_send());
    assert!(
        !connection.finish_if_done(),
        "seven bytes are not written yet"
    );
    connection.forwarded(7);
    assert!(connection.finish_if_done());
}

#[test]
fn a_local_reader_that_left_is_reported_and_its_bytes_are_dropped() {
    let mut connection = open();
    connection.local_stopped_reading();
    assert_eq!(connection.next_control().unwrap().flags, SHUTDOWN_RECEIVE);
    assert_eq!(
        feed(&mut connection, &packet(Op::Rw, BUF_ALLOC, 1, 0)),
        Reaction::Discard
    );
    assert_eq!(connection.buffered(), 0);
    connection.local_sent_all();
    assert!(connection.local_is_gone() && !connection.awaits_reset());
    assert!(ops(&mut connection).contains(&Op::Shutdown));
    assert!(connection.awaits_reset());
    assert_eq!(
        feed(&mut connection, &packet(Op::Rst, 0, 0, 0)),
        Reaction::PeerReset
    );
}

#[test]
fn packets_out_of_place_end_the_stream() {
    for op in [Op::Request, Op::Response] {
        assert_eq!(feed(&mut open(), &packet(op, 0, 1, 0)), Reaction::Violation);
    }
    for op in [
        Op::Request,
        Op::Rw,
        Op::Shutdown,
        Op::CreditUpdate,
        Op::CreditRequest,
    ] {
        let mut connection = Connection::to_guest(3, from_host(1, 2));
        assert_eq!(
            feed(&mut connection, &packet(op, 0, 1, 0)),
            Reaction::Violation,
            "{op:?}"
        );
    }
    for op in [Op::Request, Op::Response, Op::Rw, Op::Shutdown] {
        let mut connection = Connection::from_guest(&packet(Op::Request, 0, 1, 0));
        assert_eq!(
            feed(&mut connection, &packet(op, 0, 1, 0)),
            Reaction::Violation,
            "{op:?}"
        );
    }
    let mut connection = open();
    assert_eq!(
        connection.on_packet(&packet(Op::Rw, 0, 1, 0), None),
        Reaction::Violation
    );
    assert_eq!(
        feed(&mut connection, &packet(Op::Rw, 1, 1, 0)),
        Reaction::Discard
    );
}
