// SPDX-License-Identifier: Apache-2.0
//! `sendv`: one message, gathered from pieces, all of it or nothing.

use crate::abi::{Address, DOMID_ANY, HEADER, MAX_MESSAGE, MAX_PIECES, MessageHeader, slots};
use crate::mediator::quota;
use crate::ring::Ring;
use crate::{Domain, Endpoint, Errno, Event, Mediator, Operation, Policy, Question, Verdict};

/// A piece of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// So many bytes that the carrier could not read, as a bad pointer.
    Unreadable(u32),
}

impl Piece<'_> {
    fn len(&self) -> Result<u32, Errno> {
        match self {
            Self::Bytes(bytes) => u32::try_from(bytes.len()).map_err(|_| Errno::Einval),
            Self::Unreadable(len) => Ok(*len),
        }
    }
}

/// The arguments of a `sendv`.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// A port that the caller owns; its domain is the caller's or
    /// [`DOMID_ANY`], which means the same.
    pub source: Address,
    /// Where to.
    pub destination: Address,
    /// At most [`MAX_PIECES`].
    pub pieces: &'a [Piece<'a>],
    /// Passed on as it is.
    pub message_type: u32,
}

impl<P: Policy> Mediator<P> {
    /// Puts a message into the ring that the destination has for the caller's
    /// domain, or into its wildcard ring, and returns the bytes of payload.
    ///
    /// # Errors
    /// In this order: `Enosys`, `Eopnotsupp`; `Einval`: pieces, padding;
    /// `Eperm`: the source is another's; `Esrch`; the policy's; `Enodev`;
    /// `Econnrefused`; `Einval`, `Emsgsize`: a piece or their sum is above
    /// [`MAX_MESSAGE`]; `Emsgsize`: never fits; `Eagain`: the caller waits now;
    /// `Ebusy`: not even that; `Efault`; `Enomem`: the host's memory.
    pub fn sendv(&mut self, caller: Endpoint, call: &Outgoing<'_>) -> Result<u32, Errno> {
        let enabled = self.vet_send(caller, call)?;
        let me = caller.domain();
        let owner = self
            .domains
            .get(&call.destination.domain)
            .ok_or(Errno::Esrch)?;
        self.allows(Operation::Send, me, owner.name, call.destination.port)?;
        if !enabled {
            return Err(Errno::Enodev);
        }
        let percent = self.settings.wildcard_quota_percent;
        let ring = match_ring(&mut self.domains, me, call.destination);
        let ring = ring.ok_or(Errno::Econnrefused)?;
        let (name, capacity, policy) = (ring.name, ring.capacity(), &self.policy);
        let quota = |sender| quota(policy, percent, name, capacity, sender);
        let len = put(ring, caller, call, &quota)?;
        let to = ring.reader;
        self.events.push(Event::Arrival { to, ring: name });
        Ok(len)
    }

    /// Looks at what a `sendv` says of its sender alone, and returns whether the
    /// sender's domain takes part. For carriers whose destinations are not all in
    /// one place: the mediator that has the ring does the rest.
    ///
    /// # Errors
    /// The first ones of [`Mediator::sendv`], up to `Eperm`.
    pub fn vet_send(&self, caller: Endpoint, call: &Outgoing<'_>) -> Result<bool, Errno> {
        let state = self.caller(caller)?;
        let well_formed =
            call.pieces.len() <= MAX_PIECES && call.source.pad == 0 && call.destination.pad == 0;
        if !well_formed {
            return Err(Errno::Einval);
        }
        let ids = [caller.domain().id(), DOMID_ANY];
        if !ids.contains(&call.source.domain) {
            return Err(Errno::Eperm);
        }
        if state.enabled && !state.owns(caller, call.source.port) {
            return Err(Errno::Eperm);
        }
        Ok(state.enabled)
    }

    /// `Ok` if the policy lets `actor` do this towards `peer`.
    pub(crate) fn allows(
        &self,
        operation: Operation,
        actor: Domain,
        peer: Domain,
        port: u32,
    ) -> Result<(), Errno> {
        let question = Question {
            operation,
            actor,
            peer: Some(peer),
            port,
        };
        match self.policy.may(&question) {
            Verdict::Allow => Ok(()),
            Verdict::Refuse(how) => Err(how.errno()),
        }
    }
}

/// The ring that takes messages of `sender` at `address`: its own, else the
/// wildcard.
pub(crate) fn match_ring(
    domains: &mut std::collections::BTreeMap<u16, crate::domain::DomainState>,
    sender: Domain,
    address: Address,
) -> Option<&mut Ring> {
    let state = domains.get_mut(&address.domain)?;
    let own = (address.port, sender.id());
    let key = if state.rings.contains_key(&own) {
        own
    } else {
        (address.port, DOMID_ANY)
    };
    state.rings.get_mut(&key)
}

fn put(
    ring: &mut Ring,
    caller: Endpoint,
    call: &Outgoing<'_>,
    quota: &impl Fn(Domain) -> u32,
) -> Result<u32, Errno> {
    let me = caller.domain();
    let len = total(call.pieces)?;
    if slots(len) > ring.max_payload(quota(me)) {
        return Err(Errno::Emsgsize);
    }
    if ring.room(me, quota).is_none_or(|room| room < len) {
        ring.line.join(caller, len)?;
        return Err(Errno::Eagain);
    }
    let unreadable = |piece: &Piece<'_>| matches!(piece, Piece::Unreadable(1..));
    if call.pieces.iter().any(unreadable) {
        return Err(Errno::Efault);
    }
    let header = MessageHeader {
        len: len + HEADER,
        source: Address::new(me.id(), call.source.port),
        message_type: call.message_type,
    };
    let bytes = call.pieces.iter().filter_map(|piece| match piece {
        Piece::Bytes(bytes) => Some(*bytes),
        Piece::Unreadable(_) => None,
    });
    ring.push(&header, me, bytes)?;
    Ok(len)
}

/// The payload's length, bytes.
fn total(pieces: &[Piece<'_>]) -> Result<u32, Errno> {
    let mut sum = 0;
    for piece in pieces {
        let len = piece.len()?;
        if len > MAX_MESSAGE {
            return Err(Errno::Einval);
        }
        sum += len;
        if sum > MAX_MESSAGE {
            return Err(Errno::Emsgsize);
        }
    }
    Ok(sum)
}
