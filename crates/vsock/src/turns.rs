// SPDX-License-Identifier: Apache-2.0
//! Whose turn it is at the guest's RX queue, and what goes into it.

use crate::chain::GuestBuf;
use crate::muxer::Muxer;
use crate::packet::{HEADER_LEN, Header};
use crate::stream::Read;

/// Bytes one stream may move to the guest in one turn.
const TURN_BYTES: usize = 64 * 1024;

/// What goes into the guest's next RX buffers.
#[derive(Debug)]
pub(crate) enum Turn {
    /// This packet, which has no payload.
    Control(Header),
    /// Payload of stream `id`, at most `room` bytes.
    Payload { id: u64, room: usize },
}

impl Muxer {
    /// Whether RX buffers would be put to use.
    pub(crate) fn wants_buffers(&self) -> bool {
        !self.resets.is_empty() || !self.turns.is_empty()
    }

    /// Decides what goes into the next RX buffer.
    pub(crate) fn next_turn(&mut self) -> Option<Turn> {
        if let Some(header) = self.resets.pop_front() {
            return Some(Turn::Control(header));
        }
        while let Some(id) = self.turns.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.queued = false;
            if let Some(header) = stream.connection.next_control() {
                self.settle(id);
                return Some(Turn::Control(header));
            }
            if stream.wants_to_send() {
                let room = stream.connection.credit().min(TURN_BYTES);
                return Some(Turn::Payload { id, room });
            }
        }
        None
    }

    /// Fills RX buffers with payload packets of stream `id` and returns how
    /// many payload bytes they hold; they fill the buffers in order.
    pub(crate) fn fill(&mut self, id: u64, buffers: &[GuestBuf<'_>], room: usize) -> usize {
        let Some(stream) = self.streams.get_mut(&id) else {
            return 0;
        };
        let count = match stream.read_into(buffers, room) {
            Read::Bytes(count) => {
                if std::mem::take(&mut stream.unanswered) {
                    self.peers.answered(stream.connection.key());
                }
                count
            }
            Read::Nothing | Read::End => 0,
            Read::Broken => {
                stream.connection.abort();
                self.count_broken(id);
                0
            }
        };
        self.counters.bytes_to_guest.add(count as u64);
        self.write_headers(id, buffers, count);
        self.settle(id);
        count
    }

    fn write_headers(&mut self, id: u64, buffers: &[GuestBuf<'_>], mut left: usize) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        for buffer in buffers {
            let len = left.min(buffer.len() - HEADER_LEN);
            if len == 0 {
                return;
            }
            // TURN_BYTES bounds it.
            let len_on_wire = u32::try_from(len).unwrap_or(0);
            buffer.write_at(0, &stream.connection.payload_header(len_on_wire).encode());
            left -= len;
        }
    }
}
