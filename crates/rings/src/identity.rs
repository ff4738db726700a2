// SPDX-License-Identifier: Apache-2.0
//! Who and what: domains, endpoints, rings, and what happened to them.
//!
//! [`Domain`] and [`Endpoint`] are minted by the mediator alone and never again
//! with the same number, so one that outlived its domain opens nothing.

use crate::abi::DOMID_ANY;

/// One life of a domain: its id, and which of the lives of that id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain {
    id: u16,
    instance: u64,
}

impl Domain {
    pub(crate) const fn new(id: u16, instance: u64) -> Self {
        Self { id, instance }
    }

    /// The number that guests use; another life may get it later.
    #[must_use]
    pub const fn id(self) -> u16 {
        self.id
    }

    /// The number that no other life of any domain has in this mediator.
    #[must_use]
    pub const fn instance(self) -> u64 {
        self.instance
    }
}

/// A caller: one program of a domain, as the carrier tells them apart. Ports
/// and rings belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    domain: Domain,
    number: u64,
}

impl Endpoint {
    pub(crate) const fn new(domain: Domain, number: u64) -> Self {
        Self { domain, number }
    }

    /// The domain it belongs to.
    #[must_use]
    pub const fn domain(self) -> Domain {
        self.domain
    }

    /// A number that no other endpoint of this mediator has or had.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.number
    }
}

/// The name of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RingName {
    /// Whose it is.
    pub owner: Domain,
    /// Where it is.
    pub port: u32,
    /// The one sender, or nobody in particular: a wildcard ring.
    pub partner: Option<Domain>,
}

impl RingName {
    /// The partner as a call names it.
    #[must_use]
    pub fn partner_id(&self) -> u16 {
        self.partner.map_or(DOMID_ANY, Domain::id)
    }
}

/// Something an endpoint has to be told. The carrier takes these with
/// [`Mediator::take_events`](crate::Mediator::take_events) after each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A message lies in the endpoint's ring.
    Arrival {
        /// The ring's owner.
        to: Endpoint,
        /// The ring.
        ring: RingName,
    },
    /// A ring has the room that the endpoint waited for.
    Space {
        /// Who waited.
        to: Endpoint,
        /// The ring.
        ring: RingName,
    },
    /// A ring is gone: to its owner, unless that took it away itself, and to
    /// all who waited for room in it. A waiter that may no longer send to a
    /// ring is told the same.
    Closed {
        /// The owner or a waiter.
        to: Endpoint,
        /// The ring that was.
        ring: RingName,
    },
}

impl Event {
    /// Whom to tell.
    #[must_use]
    pub const fn to(&self) -> Endpoint {
        match *self {
            Self::Arrival { to, .. } | Self::Space { to, .. } | Self::Closed { to, .. } => to,
        }
    }
}

/// A ring as it is now, for those who look from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingStatus {
    /// Which ring.
    pub name: RingName,
    /// The endpoint that reads it.
    pub reader: Endpoint,
    /// Bytes of message space.
    pub len: u32,
    /// Bytes that messages take, headers and padding included.
    pub used: u32,
    /// How many messages those are.
    pub messages: usize,
    /// How many domains wait for room.
    pub waiting: usize,
}
