// SPDX-License-Identifier: Apache-2.0
//! `notify`: wakes those who wait for the caller's rings, and answers questions
//! about the rings of others.

use crate::abi::{MAX_ENTRIES, RingData, flags};
use crate::mediator::quota;
use crate::send::match_ring;
use crate::{Appearance, Endpoint, Errno, Event, Mediator, Operation, Policy, Question, Verdict};

impl<P: Policy> Mediator<P> {
    /// Wakes whom the caller's rings have room for now, then fills in the
    /// entries, up to the first that fails.
    ///
    /// # Errors
    /// `Enosys`, `Eopnotsupp`, `Enodev`; `Einval`: more than [`MAX_ENTRIES`],
    /// after the waking; `Eacces`: the policy refuses an entry and shows it.
    pub fn notify(&mut self, caller: Endpoint, entries: &mut [RingData]) -> Result<(), Errno> {
        self.wake(caller)?;
        if entries.len() > MAX_ENTRIES {
            return Err(Errno::Einval);
        }
        entries
            .iter_mut()
            .try_for_each(|entry| self.query(caller, entry))
    }

    /// The first half of [`Mediator::notify`], for carriers whose rings are
    /// not all in one place. It is for all rings of the caller's domain.
    ///
    /// # Errors
    /// `Enosys`, `Eopnotsupp`, `Enodev`.
    pub fn wake(&mut self, caller: Endpoint) -> Result<(), Errno> {
        if !self.caller(caller)?.enabled {
            return Err(Errno::Enodev);
        }
        let percent = self.settings.wildcard_quota_percent;
        let policy = &self.policy;
        let Some(state) = self.domains.get_mut(&caller.domain().id()) else {
            return Err(Errno::Enodev);
        };
        for ring in state.rings.values_mut() {
            let (name, capacity) = (ring.name, ring.capacity());
            // Who may not hear from the owner is not told of its room either.
            ring.line.expel(|waiter| {
                let question = Question {
                    operation: Operation::Notify,
                    actor: name.owner,
                    peer: Some(waiter),
                    port: name.port,
                };
                policy.may(&question) == Verdict::Allow
            });
            let woken = ring.wake(&|sender| quota(policy, percent, name, capacity, sender));
            let told = woken.into_iter().map(|to| Event::Space { to, ring: name });
            self.events.extend(told);
        }
        Ok(())
    }

    /// One entry: fills in `flags` and, if there is a ring, `max_message_size`.
    /// Without room, the caller waits.
    ///
    /// # Errors
    /// `Enosys`, `Eopnotsupp`, `Enodev`; `Eacces`: refused and shown.
    pub fn query(&mut self, caller: Endpoint, entry: &mut RingData) -> Result<(), Errno> {
        if !self.caller(caller)?.enabled {
            return Err(Errno::Enodev);
        }
        let me = caller.domain();
        entry.flags = 0;
        let Some(owner) = self.domains.get(&entry.ring.domain) else {
            return Ok(());
        };
        if !owner.enabled {
            return Ok(());
        }
        match self.allows(Operation::Query, me, owner.name, entry.ring.port) {
            Ok(()) => {}
            Err(error) if error == Appearance::Denied.errno() => return Err(error),
            Err(_) => return Ok(()),
        }
        let percent = self.settings.wildcard_quota_percent;
        let Some(ring) = match_ring(&mut self.domains, me, entry.ring) else {
            return Ok(());
        };
        let (name, capacity, policy) = (ring.name, ring.capacity(), &self.policy);
        let quota = |sender| quota(policy, percent, name, capacity, sender);
        entry.flags |= flags::EXISTS;
        entry.max_message_size = ring.max_payload(quota(me));
        if ring.is_wildcard() {
            entry.flags |= flags::SHARED;
        }
        if ring.is_empty() {
            entry.flags |= flags::EMPTY;
        }
        // As Argo, which answers a question about nothing with yes.
        let room = ring.room(me, &quota).unwrap_or(0);
        if entry.space_required > entry.max_message_size {
            entry.flags |= flags::EMSGSIZE;
        } else if entry.space_required <= room {
            ring.line.cancel(me);
            entry.flags |= flags::SUFFICIENT;
        } else if ring.line.join(caller, entry.space_required).is_err() {
            entry.flags |= flags::EBUSY;
        }
        Ok(())
    }
}
