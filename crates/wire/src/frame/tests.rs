// SPDX-License-Identifier: Apache-2.0
//! The framing against good, torn, oversize and random input.

use super::*;
use crate::vsh::{DataMessage, GuestMessage, SetupConnectionRequest, guest_message};

fn stdin(data: &[u8]) -> GuestMessage {
    GuestMessage {
        msg: Some(guest_message::Msg::DataMessage(DataMessage {
            stream: crate::vsh::StdioStream::StdinStream.into(),
            data: Bytes::copy_from_slice(data),
        })),
    }
}

/// A small generator with a fixed seed (xorshift64*), so that failures repeat.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[test]
fn published_bytes() {
    // length 7; field 1 (data_message), 5 bytes: stream=1, data="a".
    let frame = encode(&stdin(b"a"), MESSAGE_LIMIT).unwrap();
    assert_eq!(frame, [7, 0, 0, 0, 0x0a, 5, 0x08, 1, 0x12, 1, b'a']);
}

#[test]
fn frames_survive_any_split() {
    let mut bytes = Vec::new();
    for size in [0, 1, 100, DATA_LIMIT] {
        bytes.extend(encode(&stdin(&vec![7; size]), MESSAGE_LIMIT).unwrap());
    }
    for step in [1, 2, 3, 5, 4096, bytes.len()] {
        let mut decoder = FrameDecoder::new(MESSAGE_LIMIT);
        let mut sizes = Vec::new();
        for piece in bytes.chunks(step) {
            decoder.feed(piece);
            while let Some(message) = decoder.next_message::<GuestMessage>().unwrap() {
                match message.msg {
                    Some(guest_message::Msg::DataMessage(data)) => sizes.push(data.data.len()),
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(sizes, [0, 1, 100, DATA_LIMIT], "split every {step} bytes");
        assert_eq!(decoder.buffered(), 0);
    }
}

#[test]
fn full_data_message_fits_the_upstream_limit() {
    let frame = encode(&stdin(&[0; DATA_LIMIT]), 4096).unwrap();
    assert!(frame.len() - HEADER_LEN <= 4096);
}

#[test]
fn oversize_is_refused_at_the_header() {
    let mut decoder = FrameDecoder::new(MESSAGE_LIMIT);
    decoder.feed(&(MESSAGE_LIMIT as u32 + 1).to_le_bytes());
    assert!(matches!(
        decoder.next_frame(),
        Err(FrameError::TooLong { length: 65537, .. })
    ));
    let mut decoder = FrameDecoder::new(MESSAGE_LIMIT);
    decoder.feed(&[0xff; 4]);
    assert!(decoder.next_frame().is_err());
    assert!(encode(&stdin(&[0; 100]), 50).is_err());
}

#[test]
fn the_limit_is_inclusive_and_can_change() {
    let mut decoder = FrameDecoder::new(8);
    decoder.feed(&8u32.to_le_bytes());
    decoder.feed(&[0; 8]);
    assert_eq!(decoder.next_frame().unwrap().unwrap().len(), 8);
    decoder.set_limit(7);
    decoder.feed(&8u32.to_le_bytes());
    assert!(decoder.next_frame().is_err());
}

#[test]
fn unknown_fields_are_skipped() {
    // Field 1000, varint 1; then target="x".
    let mut decoder = FrameDecoder::new(SETUP_LIMIT);
    let body = [0xc0, 0x3e, 1, 0x0a, 1, b'x'];
    decoder.feed(&(body.len() as u32).to_le_bytes());
    decoder.feed(&body);
    let message: SetupConnectionRequest = decoder.next_message().unwrap().unwrap();
    assert_eq!(message.target, "x");
}

#[test]
fn random_bytes_never_panic_and_never_grow_the_buffer() {
    let mut rng = Rng(0x1234_5678_9abc_def1);
    for _ in 0..20_000 {
        let mut decoder = FrameDecoder::new(512);
        let mut fed = 0;
        'stream: for _ in 0..8 {
            let mut piece: Vec<u8> = (0..rng.below(64)).map(|_| rng.next() as u8).collect();
            // Half of the pieces start like a frame that may be whole.
            if rng.below(2) == 0 {
                let length = (rng.below(80) as u32).to_le_bytes();
                piece.splice(0..0, length);
            }
            fed += piece.len();
            decoder.feed(&piece);
            loop {
                match decoder.next_message::<GuestMessage>() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'stream,
                }
            }
            assert!(decoder.buffered() <= fed);
        }
    }
}

#[test]
fn mutated_messages_never_panic() {
    let mut rng = Rng(42);
    let request = SetupConnectionRequest {
        argv: vec!["sh".into(), "-c".into(), "true".into()],
        env: [("A".into(), "B".into())].into(),
        cwd: "/".into(),
        window_cols: -1,
        ..Default::default()
    };
    let good = encode(&request, SETUP_LIMIT).unwrap();
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=rng.below(4) {
            let at = rng.below(bytes.len());
            bytes[at] ^= 1 << rng.below(8);
        }
        bytes.truncate(rng.below(bytes.len() + 1));
        let mut decoder = FrameDecoder::new(SETUP_LIMIT);
        decoder.feed(&bytes);
        while let Ok(Some(_)) = decoder.next_message::<SetupConnectionRequest>() {}
    }
}
