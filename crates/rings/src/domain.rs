// SPDX-License-Identifier: Apache-2.0
//! What one life of a domain has: endpoints, ports, rings.

use std::collections::{BTreeMap, BTreeSet};

use crate::ring::Ring;
use crate::{Domain, Endpoint, Errno};

/// Automatic ports start here, as the Linux driver's do.
const FIRST_AUTOMATIC_PORT: u32 = 0x8000_0000;

/// Port and partner id, which name a ring of a domain that is known.
pub(crate) type RingKey = (u32, u16);

#[derive(Debug)]
struct Port {
    owner: Endpoint,
    /// By `bind`, and not only by a ring.
    bound: bool,
    rings: usize,
}

#[derive(Debug)]
pub(crate) struct DomainState {
    pub(crate) name: Domain,
    /// Whether it takes part in rings.
    pub(crate) enabled: bool,
    pub(crate) endpoints: BTreeSet<Endpoint>,
    pub(crate) rings: BTreeMap<RingKey, Ring>,
    ports: BTreeMap<u32, Port>,
    next_automatic: u32,
}

impl DomainState {
    pub(crate) fn new(name: Domain, enabled: bool) -> Self {
        Self {
            name,
            enabled,
            endpoints: BTreeSet::new(),
            rings: BTreeMap::new(),
            ports: BTreeMap::new(),
            next_automatic: FIRST_AUTOMATIC_PORT,
        }
    }

    /// Sum of the lengths of its rings, bytes.
    pub(crate) fn ring_bytes(&self) -> u64 {
        self.rings.values().map(|ring| u64::from(ring.len)).sum()
    }

    pub(crate) fn owns(&self, endpoint: Endpoint, port: u32) -> bool {
        self.ports
            .get(&port)
            .is_some_and(|one| one.owner == endpoint)
    }

    /// Whether `endpoint` could have the port.
    pub(crate) fn may_claim(&self, endpoint: Endpoint, port: u32, max: usize) -> Result<(), Errno> {
        match self.ports.get(&port) {
            Some(one) if one.owner == endpoint => Ok(()),
            Some(_) => Err(Errno::Eaddrinuse),
            None if self.ports.len() >= max => Err(Errno::Enospc),
            None => Ok(()),
        }
    }

    /// Makes the port `endpoint`'s: by itself, or because of a ring.
    pub(crate) fn claim(&mut self, endpoint: Endpoint, port: u32, ring: bool) {
        let port = self.ports.entry(port).or_insert(Port {
            owner: endpoint,
            bound: false,
            rings: 0,
        });
        if ring {
            port.rings += 1;
        } else {
            port.bound = true;
        }
    }

    /// Undoes one [`DomainState::claim`]; the last one frees the port.
    pub(crate) fn release(&mut self, port: u32, ring: bool) {
        let Some(one) = self.ports.get_mut(&port) else {
            return;
        };
        if ring {
            one.rings = one.rings.saturating_sub(1);
        } else {
            one.bound = false;
        }
        if !one.bound && one.rings == 0 {
            self.ports.remove(&port);
        }
    }

    /// Takes a ring away, and its claim on the port.
    pub(crate) fn remove_ring(&mut self, key: RingKey) -> Option<Ring> {
        let ring = self.rings.remove(&key)?;
        self.release(key.0, true);
        Some(ring)
    }

    /// Frees all ports of an endpoint; its rings are gone already.
    pub(crate) fn release_all(&mut self, endpoint: Endpoint) {
        self.ports.retain(|_, port| port.owner != endpoint);
    }

    /// A port that nobody owns, none twice in a row.
    pub(crate) fn automatic_port(&mut self) -> u32 {
        // There are 2^31 of them and far fewer can be owned.
        loop {
            let port = self.next_automatic;
            self.next_automatic = port.checked_add(1).unwrap_or(FIRST_AUTOMATIC_PORT);
            if !self.ports.contains_key(&port) {
                return port;
            }
        }
    }
}
