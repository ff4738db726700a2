// SPDX-License-Identifier: Apache-2.0
//! One ring: how much room it has for whom.

use std::collections::BTreeMap;

use crate::abi::{HEADER, MessageHeader, SLOT, cost};
use crate::buffer::Buffer;
use crate::line::Line;
use crate::{Domain, Endpoint, Errno, RingName, RingStatus};

#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) name: RingName,
    /// The endpoint that registered it and reads it.
    pub(crate) reader: Endpoint,
    pub(crate) len: u32,
    pub(crate) line: Line,
    buffer: Buffer,
    /// Bytes of each sender's unread messages; kept for wildcard rings alone,
    /// the only ones with several senders.
    held: BTreeMap<Domain, u32>,
}

impl Ring {
    pub(crate) fn new(name: RingName, reader: Endpoint, len: u32) -> Self {
        Self {
            name,
            reader,
            len,
            line: Line::default(),
            buffer: Buffer::default(),
            held: BTreeMap::new(),
        }
    }

    pub(crate) fn is_wildcard(&self) -> bool {
        self.name.partner.is_none()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    pub(crate) fn status(&self) -> RingStatus {
        RingStatus {
            name: self.name,
            reader: self.reader,
            len: self.len,
            used: self.buffer.used(),
            messages: self.buffer.messages(),
            waiting: self.line.waiting(),
        }
    }

    /// The bytes that messages can take: one slot stays free, so that in Argo's
    /// layout equal pointers mean an empty ring.
    pub(crate) fn capacity(&self) -> u32 {
        self.len - SLOT
    }

    /// The most payload that a sender with this quota can ever send.
    pub(crate) fn max_payload(&self, quota: u32) -> u32 {
        self.capacity().min(quota).saturating_sub(HEADER)
    }

    /// The payload that `sender` may send now; `None` if not even none.
    ///
    /// On a wildcard ring nobody overtakes the line: what those ahead will take
    /// is not offered to others. An empty ring is for whoever comes first, or a
    /// domain that waits and never sends could close it; with quotas of at most
    /// half, who is first leaves enough for the first of the line.
    pub(crate) fn room(&self, sender: Domain, quota: &impl Fn(Domain) -> u32) -> Option<u32> {
        let mut room = self.free();
        if self.is_wildcard() {
            if !self.is_empty() {
                let ahead = self
                    .line
                    .ahead_of(sender, |one, cost| self.can(one, cost, quota));
                room = room.saturating_sub(ahead);
            }
            room = room.min(quota(sender).saturating_sub(self.held_by(sender)));
        }
        room.checked_sub(HEADER)
    }

    /// Appends a message that [`Ring::room`] has room for.
    pub(crate) fn push<'a>(
        &mut self,
        header: &MessageHeader,
        sender: Domain,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Errno> {
        self.buffer.push(header, sender.instance(), pieces)?;
        if self.is_wildcard() {
            *self.held.entry(sender).or_default() += cost(header.payload());
        }
        self.line.served(sender);
        Ok(())
    }

    /// The first message's header and sender.
    pub(crate) fn front(&self) -> Option<(MessageHeader, Domain)> {
        let (header, instance) = self.buffer.front()?;
        Some((header, Domain::new(header.source.domain, instance)))
    }

    /// Appends the first message's payload, or all its slots, to `target`.
    pub(crate) fn copy_front(&self, whole: bool, target: &mut Vec<u8>) {
        let Some((header, _)) = self.front() else {
            return;
        };
        if whole {
            self.buffer.copy(0, cost(header.payload()), target);
        } else {
            self.buffer.copy(HEADER, header.payload(), target);
        }
    }

    /// Drops the first message.
    pub(crate) fn pop(&mut self) {
        let Some((header, sender)) = self.front() else {
            return;
        };
        self.buffer.pop();
        if let Some(held) = self.held.get_mut(&sender) {
            *held = held.saturating_sub(cost(header.payload()));
            if *held == 0 {
                self.held.remove(&sender);
            }
        }
    }

    /// Drops the first messages that take exactly `len` bytes.
    ///
    /// # Errors
    /// `Einval`, and drops none, where no message ends there.
    pub(crate) fn discard(&mut self, len: u32) -> Result<(), Errno> {
        if len > self.buffer.used() {
            return Err(Errno::Einval);
        }
        let (mut offset, mut count) = (0u32, 0u32);
        while offset < len {
            let header = self.buffer.header_at(offset).ok_or(Errno::Einval)?;
            offset += cost(header.payload());
            count += 1;
        }
        if offset != len {
            return Err(Errno::Einval);
        }
        (0..count).for_each(|_| self.pop());
        Ok(())
    }

    /// Whom the room there is now wakes.
    pub(crate) fn wake(&mut self, quota: &impl Fn(Domain) -> u32) -> Vec<Endpoint> {
        let room = self.free();
        if self.is_empty() {
            return self.line.wake_all();
        }
        // As Argo: room for a header alone wakes nobody.
        if room <= HEADER {
            return Vec::new();
        }
        let mut line = std::mem::take(&mut self.line);
        let woken = line.wake(room, |one, cost| self.can(one, cost, quota));
        self.line = line;
        woken
    }

    fn free(&self) -> u32 {
        self.capacity().saturating_sub(self.buffer.used())
    }

    fn held_by(&self, sender: Domain) -> u32 {
        self.held.get(&sender).copied().unwrap_or(0)
    }

    /// Whether a sender's own unread messages leave it `cost` bytes.
    fn can(&self, sender: Domain, cost: u32, quota: &impl Fn(Domain) -> u32) -> bool {
        self.held_by(sender).saturating_add(cost) <= quota(sender)
    }
}
