// SPDX-License-Identifier: Apache-2.0
//! The messages of one ring, as the bytes that its message space would hold:
//! header, payload, padding to the next slot, one after the other.
//!
//! Memory grows with what is in it, up to the ring's length and what doubling
//! adds, and is given back when a ring that was large is empty.

use std::collections::VecDeque;

use crate::Errno;
use crate::abi::{HEADER, MessageHeader, cost};

/// An empty buffer keeps no more than this.
const KEPT_BYTES: usize = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: VecDeque<u8>,
    /// Which life of its domain sent each message.
    instances: VecDeque<u64>,
}

impl Buffer {
    /// Bytes taken; a multiple of the slot. A ring is at most 16 MiB.
    pub(crate) fn used(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn messages(&self) -> usize {
        self.instances.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends a message; without memory for all of it, nothing.
    pub(crate) fn push<'a>(
        &mut self,
        header: &MessageHeader,
        instance: u64,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Errno> {
        let payload = header.payload();
        self.bytes
            .try_reserve(cost(payload) as usize)
            .and_then(|()| self.instances.try_reserve(1))
            .map_err(|_| Errno::Enomem)?;
        self.bytes.extend(&header.encode());
        for piece in pieces {
            self.bytes.extend(piece);
        }
        let padding = cost(payload) - HEADER - payload;
        self.bytes.extend([0; 16].iter().take(padding as usize));
        self.instances.push_back(instance);
        Ok(())
    }

    /// The header of message `index`'s first byte at `offset`.
    pub(crate) fn header_at(&self, offset: u32) -> Option<MessageHeader> {
        let mut bytes = [0; HEADER as usize];
        let start = offset as usize;
        if self.bytes.len() < start + bytes.len() {
            return None;
        }
        for (to, from) in bytes.iter_mut().zip(self.bytes.range(start..)) {
            *to = *from;
        }
        MessageHeader::decode(&bytes).ok()
    }

    /// The first message and which life of its domain sent it.
    pub(crate) fn front(&self) -> Option<(MessageHeader, u64)> {
        Some((self.header_at(0)?, *self.instances.front()?))
    }

    /// Appends `len` bytes from `offset` on to `target`.
    pub(crate) fn copy(&self, offset: u32, len: u32, target: &mut Vec<u8>) {
        let (start, end) = (offset as usize, offset as usize + len as usize);
        let (head, tail) = self.bytes.as_slices();
        let middle = head.len();
        target.extend_from_slice(head.get(start.min(middle)..end.min(middle)).unwrap_or(&[]));
        let rest = start.saturating_sub(middle)..end.saturating_sub(middle);
        target.extend_from_slice(tail.get(rest).unwrap_or(&[]));
    }

    /// Drops the first message.
    pub(crate) fn pop(&mut self) {
        let Some((header, _)) = self.front() else {
            return;
        };
        let len = (cost(header.payload()) as usize).min(self.bytes.len());
        self.bytes.drain(..len);
        self.instances.pop_front();
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT_BYTES {
            *self = Self::default();
        }
    }
}
