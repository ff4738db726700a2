// SPDX-License-Identifier: Apache-2.0
//! Reading a ring: what a guest of Xen does by itself, in its own memory.
//!
//! Reading makes room, as moving `rx_ptr` does, and like that it wakes nobody:
//! [`Mediator::notify`] does.

use crate::abi::{MessageHeader, cost};
use crate::{Domain, Endpoint, Errno, Mediator, Policy};

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// As it stands in the ring.
    pub header: MessageHeader,
    /// Which life of the domain in the header sent it; that may be over.
    pub sender: Domain,
    /// The bytes.
    pub payload: Vec<u8>,
}

impl<P: Policy> Mediator<P> {
    /// Takes the first message out of a ring; `None` if there is none.
    ///
    /// # Errors
    /// `Enosys`, `Eopnotsupp`, `Enodev`; `Enoent`: the caller has no such ring.
    pub fn receive(
        &mut self,
        caller: Endpoint,
        port: u32,
        partner: u16,
    ) -> Result<Option<Message>, Errno> {
        let ring = self.own_ring_mut(caller, (port, partner))?;
        let Some((header, sender)) = ring.front() else {
            return Ok(None);
        };
        let mut payload = Vec::with_capacity(header.payload() as usize);
        ring.copy_front(false, &mut payload);
        ring.pop();
        Ok(Some(Message {
            header,
            sender,
            payload,
        }))
    }

    /// The first message's header and sender; it stays.
    ///
    /// # Errors
    /// As [`Mediator::receive`].
    pub fn peek(
        &self,
        caller: Endpoint,
        port: u32,
        partner: u16,
    ) -> Result<Option<(MessageHeader, Domain)>, Errno> {
        Ok(self.own_ring(caller, (port, partner))?.front())
    }

    /// Takes as many whole messages as `max_bytes` hold, in the ring's own
    /// layout (header, payload, padding), appends them to `target` and returns
    /// how many there were.
    ///
    /// # Errors
    /// As [`Mediator::receive`]; `Emsgsize`: not even the first fits.
    pub fn receive_slots(
        &mut self,
        caller: Endpoint,
        port: u32,
        partner: u16,
        max_bytes: u32,
        target: &mut Vec<u8>,
    ) -> Result<usize, Errno> {
        let ring = self.own_ring_mut(caller, (port, partner))?;
        let (mut left, mut count) = (max_bytes, 0);
        while let Some((header, _)) = ring.front() {
            let Some(rest) = left.checked_sub(cost(header.payload())) else {
                break;
            };
            left = rest;
            ring.copy_front(true, target);
            ring.pop();
            count += 1;
        }
        if count == 0 && !ring.is_empty() {
            return Err(Errno::Emsgsize);
        }
        Ok(count)
    }

    /// Drops messages unread: `rx_ptr`, moved on by `bytes`.
    ///
    /// # Errors
    /// As [`Mediator::receive`]; `Einval`, and drops none: no message ends
    /// there.
    pub fn discard(
        &mut self,
        caller: Endpoint,
        port: u32,
        partner: u16,
        bytes: u32,
    ) -> Result<(), Errno> {
        self.own_ring_mut(caller, (port, partner))?.discard(bytes)
    }
}
