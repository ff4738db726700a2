// SPDX-License-Identifier: Apache-2.0
//! Any bytes, in any pieces: for the fuzzer, and for the test that plays what it
//! found.

use inn_wire::announce::HostMessage;
use inn_wire::frame::{FrameDecoder, MESSAGE_LIMIT, SETUP_LIMIT};
use inn_wire::vsh::{GuestMessage, SetupConnectionRequest};

/// Lengths of the frames found, and whether the stream ended in an error.
fn frames(bytes: &[u8], step: usize) -> (Vec<usize>, bool) {
    let mut decoder = FrameDecoder::new(MESSAGE_LIMIT);
    let mut lengths = Vec::new();
    for piece in bytes.chunks(step) {
        decoder.feed(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => lengths.push(frame.len()),
                Ok(None) => break,
                Err(_) => return (lengths, true),
            }
        }
    }
    (lengths, false)
}

/// Reads the input whole and in pieces of a size that its first byte says.
pub fn play(input: &[u8]) {
    let Some((&step, bytes)) = input.split_first() else {
        return;
    };
    assert_eq!(
        frames(bytes, usize::from(step) + 1),
        frames(bytes, bytes.len().max(1))
    );

    let mut session = FrameDecoder::new(SETUP_LIMIT);
    session.feed(bytes);
    let _ = session.next_message::<SetupConnectionRequest>();
    session.set_limit(MESSAGE_LIMIT);
    while let Ok(Some(_)) = session.next_message::<GuestMessage>() {}

    let mut announcement = FrameDecoder::new(MESSAGE_LIMIT);
    announcement.feed(bytes);
    while let Ok(Some(_)) = announcement.next_message::<HostMessage>() {}
}
