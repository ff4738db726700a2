// SPDX-License-Identifier: Apache-2.0
//! Frames that are read again, frames of any bytes, and the limits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use inn_ringwire::abi::{Address, RegisterRing, RingData, UnregisterRing};
use inn_ringwire::{
    Answer, Limits, MAX_FRAME, Malformed, Notice, Piece, Receive, Request, RingRow, Sendv, What,
    encode_answer, encode_notice, kind, split,
};
use proptest::prelude::*;

fn ask(request: Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.encode(&mut bytes, 7);
    bytes
}

#[test]
fn requests_are_read_as_they_were_written() {
    let requests = [
        Request::Hello(1),
        Request::Register(RegisterRing::new(5, 2, 4096)),
        Request::Unregister(UnregisterRing {
            port: 5,
            partner: 2,
            pad: 3,
        }),
        Request::Receive(Receive {
            port: 1,
            partner: 2,
            pad: 3,
            max_bytes: 4,
            flags: 5,
        }),
        Request::Bind(9),
        Request::Unbind(u32::MAX),
        Request::Info,
        Request::Unknown(77),
    ];
    for request in requests {
        let bytes = ask(request);
        let frame = split(&bytes).unwrap().unwrap();
        assert_eq!((frame.tag, frame.size()), (7, bytes.len()));
        assert_eq!(Request::decode(&frame), Ok(request));
    }
}

/// The bytes of docs/reference/rings-protocol.md, by hand.
#[test]
fn the_layout_is_the_documents() {
    let mut bytes = Vec::new();
    let addresses = [Address::new(0x7FF4, 0x0102), Address::new(3, 0x0405)];
    let pieces = [Piece::Bytes(b"ab"), Piece::Unreadable(6)];
    Sendv::encode(&mut bytes, 0x11, addresses, 0x22, &pieces);
    let want = [
        &[39, 0, 0, 0, 4, 0x11, 0, 0, 0][..],
        &[0x02, 0x01, 0, 0, 0xF4, 0x7F, 0, 0],
        &[0x05, 0x04, 0, 0, 3, 0, 0, 0],
        &[0x22, 0, 0, 0, 2, 0, 0, 0],
        &[2, 0, 0, 0, 6, 0, 0, 0x80],
        b"ab",
    ]
    .concat();
    assert_eq!(bytes, want);
    let mut bytes = Vec::new();
    let notice = Notice {
        port: 5,
        partner: 0x7FF4,
        owner: 3,
        what: What::Space,
    };
    encode_notice(&mut bytes, None, &notice);
    let want = [
        14, 0, 0, 0, 0x81, 0, 0, 0, 0, 5, 0, 0, 0, 0xF4, 0x7F, 3, 0, 2,
    ];
    assert_eq!(bytes, want);
    let frame = split(&bytes).unwrap().unwrap();
    assert_eq!(Notice::decode(&frame), Ok((None, notice)));
    let mut bytes = Vec::new();
    encode_answer(&mut bytes, 9, -11, &[]);
    assert_eq!(
        bytes,
        [9, 0, 0, 0, 0x80, 9, 0, 0, 0, 0xF5, 0xFF, 0xFF, 0xFF]
    );
}

#[test]
fn a_message_is_its_pieces() {
    let mut bytes = Vec::new();
    let pieces = [
        Piece::Bytes(b"one"),
        Piece::Bytes(b""),
        Piece::Unreadable(9),
        Piece::Bytes(b"two"),
    ];
    let addresses = [Address::new(1, 2), Address::new(3, 4)];
    Sendv::encode_for(&mut bytes, 1, 55, addresses, 6, &pieces);
    let frame = split(&bytes).unwrap().unwrap();
    let Ok(Request::For(one)) = Request::decode(&frame) else {
        panic!("{frame:?}");
    };
    assert_eq!(one.endpoint, 55);
    let Ok(Request::Sendv(call)) = one.request() else {
        panic!("{one:?}");
    };
    assert_eq!([call.source, call.destination], addresses);
    assert_eq!((call.message_type, call.count(), call.payload()), (6, 4, 6));
    assert_eq!(call.pieces().collect::<Vec<_>>(), pieces);
}

#[test]
fn entries_rows_and_limits_come_back() {
    let entries = [RingData::new(Address::new(3, 4), 5); 3];
    let mut bytes = Vec::new();
    Request::encode_notify(&mut bytes, 1, &entries);
    let frame = split(&bytes).unwrap().unwrap();
    let Ok(Request::Notify(read)) = Request::decode(&frame) else {
        panic!("{frame:?}");
    };
    assert_eq!(read.iter().collect::<Vec<_>>(), entries);
    let row = RingRow {
        port: 1,
        partner: 2,
        owner: 3,
        len: 4,
        used: 5,
        messages: 6,
        waiting: 7,
    };
    let answer = Answer {
        result: 1,
        body: &row.encode(),
    };
    assert_eq!(answer.rings().collect::<Vec<_>>(), [row]);
    let limits = Limits {
        domain: 9,
        max_frame: MAX_FRAME,
        max_payload: 3,
        max_requests: 4,
    };
    assert_eq!(Limits::decode(&limits.encode()), Ok(limits));
    assert!(Limits::decode(&limits.encode()[..15]).is_err());
}

#[test]
fn what_nobody_sane_sends_is_told_apart_from_what_is_not_whole() {
    for length in [0, 4, MAX_FRAME + 1, u32::MAX] {
        let bytes = length.to_le_bytes();
        assert_eq!(split(&bytes), Err(Malformed::Length(length)));
    }
    let whole = ask(Request::Bind(1));
    for end in 0..whole.len() {
        assert_eq!(split(&whole[..end]), Ok(None));
    }
    let mut zero = whole.clone();
    zero[5..9].fill(0);
    let frame = split(&zero).unwrap().unwrap();
    assert_eq!(Request::decode(&frame), Err(Malformed::Tag(kind::BIND)));
    let mut long = whole;
    long[0] += 1;
    long.push(0);
    let frame = split(&long).unwrap().unwrap();
    assert_eq!(Request::decode(&frame), Err(Malformed::Body(kind::BIND)));
}

#[test]
fn lengths_that_do_not_add_up_are_refused() {
    for (count, len) in [(1u32, 3u32), (1, u32::MAX >> 1), (u32::MAX, 2), (2, 2)] {
        let mut bytes = Vec::new();
        let addresses = [Address::default(); 2];
        Sendv::encode(&mut bytes, 1, addresses, 0, &[Piece::Bytes(b"ab")]);
        bytes[29..33].copy_from_slice(&count.to_le_bytes());
        bytes[33..37].copy_from_slice(&len.to_le_bytes());
        let frame = split(&bytes).unwrap().unwrap();
        assert_eq!(Request::decode(&frame), Err(Malformed::Body(kind::SENDV)));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_frame_or_refused(kind in 0u8..0x24, tag in 0u32..3, body in proptest::collection::vec(any::<u8>(), 0..96)) {
        let mut bytes = (body.len() as u32 + 5).to_le_bytes().to_vec();
        bytes.push(kind);
        bytes.extend(tag.to_le_bytes());
        bytes.extend(&body);
        let frame = split(&bytes).unwrap().unwrap();
        read_all(&frame);
    }

    #[test]
    fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(Some(frame)) = split(&bytes) {
            read_all(&frame);
        }
    }
}

fn read_all(frame: &inn_ringwire::Frame<'_>) {
    let _ = Notice::decode(frame);
    if let Ok(answer) = Answer::decode(frame) {
        let _ = (answer.entries().count(), answer.rings().count());
    }
    match Request::decode(frame) {
        Ok(Request::Sendv(call)) => assert_eq!(call.pieces().count(), call.count()),
        Ok(Request::Notify(entries)) => assert_eq!(entries.iter().count(), entries.count()),
        Ok(Request::For(one)) => drop(one.request()),
        _ => {}
    }
}
