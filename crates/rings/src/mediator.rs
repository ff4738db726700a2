// SPDX-License-Identifier: Apache-2.0
//! Who is there: domains and their endpoints come and go; a policy changes.

use std::collections::{BTreeMap, BTreeSet};

use crate::abi::{Command, FIRST_RESERVED_ID};
use crate::domain::{DomainState, RingKey};
use crate::ring::Ring;
use crate::{
    Availability, Domain, Endpoint, Errno, Event, Operation, Policy, Question, RingName,
    RingStatus, Settings, Verdict,
};

/// All rings of one host, or of one keeper's guest and those who send to it.
#[derive(Debug)]
pub struct Mediator<P> {
    pub(crate) policy: P,
    pub(crate) settings: Settings,
    pub(crate) domains: BTreeMap<u16, DomainState>,
    pub(crate) events: Vec<Event>,
    /// Of the next domain or endpoint.
    next_number: u64,
}

impl<P: Policy> Mediator<P> {
    /// A mediator without domains.
    pub fn new(policy: P, settings: Settings) -> Self {
        Self {
            policy,
            settings,
            domains: BTreeMap::new(),
            events: Vec::new(),
            next_number: 1,
        }
    }

    /// Starts a life of the domain `id`; `enabled` is false for one that others
    /// may know but that takes no part in rings.
    ///
    /// # Errors
    /// `Einval`: a reserved id. `Eexist`: it lives. `Enospc`: too many.
    pub fn create_domain(&mut self, id: u16, enabled: bool) -> Result<Domain, Errno> {
        if id >= FIRST_RESERVED_ID {
            return Err(Errno::Einval);
        }
        if self.domains.contains_key(&id) {
            return Err(Errno::Eexist);
        }
        if self.domains.len() >= self.settings.max_domains {
            return Err(Errno::Enospc);
        }
        let domain = Domain::new(id, self.mint());
        self.domains.insert(id, DomainState::new(domain, enabled));
        Ok(domain)
    }

    /// Ends a life: its rings, ports, endpoints and places in lines, and all
    /// rings of others that it was the partner of. What it sent to wildcard
    /// rings stays readable. A domain that is gone already is left alone.
    pub fn destroy_domain(&mut self, domain: Domain) {
        if self.domain(domain).is_err() {
            return;
        }
        if let Some(state) = self.domains.remove(&domain.id()) {
            for ring in state.rings.into_values() {
                self.tell_closed(ring, None);
            }
        }
        self.close_rings(|ring| ring.name.partner == Some(domain));
        for ring in self
            .domains
            .values_mut()
            .flat_map(|one| one.rings.values_mut())
        {
            ring.line.expel(|one| one != domain);
        }
        self.events.retain(|event| event.to().domain() != domain);
    }

    /// A new caller of a domain.
    ///
    /// # Errors
    /// `Enodev`: the domain is gone. `Emfile`: it has too many.
    pub fn open_endpoint(&mut self, domain: Domain) -> Result<Endpoint, Errno> {
        let max = self.settings.max_endpoints;
        if self.domain(domain)?.endpoints.len() >= max {
            return Err(Errno::Emfile);
        }
        let endpoint = Endpoint::new(domain, self.mint());
        self.domain_mut(domain)?.endpoints.insert(endpoint);
        Ok(endpoint)
    }

    /// A caller is gone: its rings, ports and places in lines go with it.
    pub fn close_endpoint(&mut self, endpoint: Endpoint) {
        let Ok(state) = self.domain_mut(endpoint.domain()) else {
            return;
        };
        if !state.endpoints.remove(&endpoint) {
            return;
        }
        let mine = |ring: &Ring| ring.reader == endpoint;
        let keys = keys_where(state, mine);
        let rings: Vec<_> = keys
            .into_iter()
            .filter_map(|key| state.remove_ring(key))
            .collect();
        state.release_all(endpoint);
        for ring in rings {
            self.tell_closed(ring, None);
        }
        for ring in self
            .domains
            .values_mut()
            .flat_map(|one| one.rings.values_mut())
        {
            ring.line.leave_alone(endpoint);
        }
        self.events.retain(|event| event.to() != endpoint);
    }

    /// Makes `port` a source that `caller` may send from.
    ///
    /// # Errors
    /// `Eaddrinuse`: another endpoint's. `Enospc`: the domain owns too many.
    pub fn bind(&mut self, caller: Endpoint, port: u32) -> Result<(), Errno> {
        let max = self.settings.max_ports;
        let state = self.caller_mut(caller)?;
        state.may_claim(caller, port, max)?;
        state.claim(caller, port, false);
        Ok(())
    }

    /// Binds a port that nobody of the domain owns and returns it.
    ///
    /// # Errors
    /// `Enospc`: the domain owns too many.
    pub fn bind_any(&mut self, caller: Endpoint) -> Result<u32, Errno> {
        let port = self.caller_mut(caller)?.automatic_port();
        self.bind(caller, port).map(|()| port)
    }

    /// Gives a port back; one with a ring stays the endpoint's until that goes.
    ///
    /// # Errors
    /// `Enoent`: not the caller's.
    pub fn unbind(&mut self, caller: Endpoint, port: u32) -> Result<(), Errno> {
        let state = self.caller_mut(caller)?;
        if !state.owns(caller, port) {
            return Err(Errno::Enoent);
        }
        state.release(port, false);
        Ok(())
    }

    /// Exchanges the policy and cuts what it no longer allows: rings with what
    /// is in them, and places in lines. Messages that arrived stay readable.
    pub fn set_policy(&mut self, policy: P) {
        self.policy = policy;
        self.reconsider();
    }

    /// Exchanges `mac_permissive`; without it, wildcard rings go.
    pub fn set_mac_permissive(&mut self, on: bool) {
        self.settings.mac_permissive = on;
        self.reconsider();
    }

    /// Asks the policy again about everything there is, for a policy that
    /// changed inside.
    pub fn reconsider(&mut self) {
        let refused: BTreeSet<_> = self
            .rings()
            .filter(|ring| self.may_register(ring.name).is_err())
            .map(|ring| ring.name)
            .collect();
        self.close_rings(|ring| refused.contains(&ring.name));
        for ring in self
            .domains
            .values_mut()
            .flat_map(|one| one.rings.values_mut())
        {
            let name = ring.name;
            let policy = &self.policy;
            let gone = ring.line.expel(|waiter| {
                let question = Question {
                    operation: Operation::Send,
                    actor: waiter,
                    peer: Some(name.owner),
                    port: name.port,
                };
                policy.may(&question) == Verdict::Allow
            });
            let closed = gone.into_iter().map(|to| Event::Closed { to, ring: name });
            self.events.extend(closed);
        }
    }

    /// Whom to tell what since the last time, in order. A carrier that does not
    /// ask keeps them all.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Reads a raw call's numbers, as [`Command::from_call`] does, and refuses
    /// all of them where there are no rings.
    ///
    /// # Errors
    /// `Einval`: arguments above 32 bits; then `Enosys`, `Eopnotsupp`; then those
    /// of [`Command::from_call`].
    pub fn vet_call(&self, number: u32, arg3: u64, arg4: u64) -> Result<Command, Errno> {
        if self.settings.availability == Availability::Absent {
            return Err(Errno::Enosys);
        }
        let command = Command::from_call(number, arg3, arg4);
        if command == Err(Errno::Einval) && arg3.max(arg4) > u64::from(u32::MAX) {
            return command;
        }
        self.available().and(command)
    }

    /// All rings there are.
    pub fn rings(&self) -> impl Iterator<Item = RingStatus> {
        self.domains
            .values()
            .flat_map(|one| one.rings.values())
            .map(Ring::status)
    }

    fn mint(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// `Ok` while there are rings to be had at all.
    pub(crate) fn available(&self) -> Result<(), Errno> {
        match self.settings.availability {
            Availability::Absent => Err(Errno::Enosys),
            Availability::Off => Err(Errno::Eopnotsupp),
            Availability::On => Ok(()),
        }
    }

    pub(crate) fn domain(&self, domain: Domain) -> Result<&DomainState, Errno> {
        let state = self.domains.get(&domain.id());
        state.filter(|one| one.name == domain).ok_or(Errno::Enodev)
    }

    pub(crate) fn domain_mut(&mut self, domain: Domain) -> Result<&mut DomainState, Errno> {
        let state = self.domains.get_mut(&domain.id());
        state.filter(|one| one.name == domain).ok_or(Errno::Enodev)
    }

    /// The domain of a caller that is still there.
    pub(crate) fn caller(&self, caller: Endpoint) -> Result<&DomainState, Errno> {
        self.available()?;
        let state = self.domain(caller.domain())?;
        if state.endpoints.contains(&caller) {
            Ok(state)
        } else {
            Err(Errno::Enodev)
        }
    }

    pub(crate) fn caller_mut(&mut self, caller: Endpoint) -> Result<&mut DomainState, Errno> {
        self.caller(caller)?;
        self.domain_mut(caller.domain())
    }

    /// Tells the reader, unless it did this itself, and those who wait.
    pub(crate) fn tell_closed(&mut self, mut ring: Ring, reader: Option<Endpoint>) {
        let name = ring.name;
        let waiting = ring.line.expel(|_| false);
        let told = reader.into_iter().chain(waiting);
        self.events
            .extend(told.map(|to| Event::Closed { to, ring: name }));
    }

    fn close_rings(&mut self, goes: impl Fn(&Ring) -> bool) {
        let mut gone = Vec::new();
        for state in self.domains.values_mut() {
            let keys = keys_where(state, &goes);
            gone.extend(keys.into_iter().filter_map(|key| state.remove_ring(key)));
        }
        for ring in gone {
            let reader = ring.reader;
            self.tell_closed(ring, Some(reader));
        }
    }

    /// Whether the ring may be there, as of now.
    pub(crate) fn may_register(&self, name: RingName) -> Result<(), Errno> {
        if name.partner.is_none() && !self.settings.mac_permissive {
            return Err(Errno::Eperm);
        }
        let operation = match name.partner {
            Some(_) => Operation::RegisterSingle,
            None => Operation::RegisterAny,
        };
        let question = Question {
            operation,
            actor: name.owner,
            peer: name.partner,
            port: name.port,
        };
        match (self.policy.may(&question), name.partner) {
            (Verdict::Allow, _) => Ok(()),
            (Verdict::Refuse(how), Some(_)) => Err(how.errno()),
            (Verdict::Refuse(crate::Appearance::Denied), None) => Err(Errno::Eacces),
            // Wildcard rings look forbidden to everybody then.
            (Verdict::Refuse(_), None) => Err(Errno::Eperm),
        }
    }
}

fn keys_where(state: &DomainState, goes: impl Fn(&Ring) -> bool) -> Vec<RingKey> {
    let rings = state.rings.iter().filter(|(_, ring)| goes(ring));
    rings.map(|(key, _)| *key).collect()
}

/// The bytes that one sender may have in a ring.
pub(crate) fn quota<P: Policy>(
    policy: &P,
    percent: u8,
    name: RingName,
    capacity: u32,
    sender: Domain,
) -> u32 {
    if name.partner.is_some() {
        return capacity;
    }
    let percent = policy
        .wildcard_quota(sender, name.owner, name.port)
        .unwrap_or(percent);
    let share = u64::from(capacity) * u64::from(percent.min(100)) / 100;
    let bytes = u32::try_from(share).unwrap_or(capacity);
    // At least a message of one slot, in whole slots.
    let least = crate::abi::cost(1);
    bytes.clamp(least, capacity.max(least)) & !(crate::abi::SLOT - 1)
}
