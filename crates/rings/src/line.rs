// SPDX-License-Identifier: Apache-2.0
//! Who waits for room in a ring, in the order they came.
//!
//! A domain stands in a line once, whoever of its endpoints came. It leaves with
//! its message, not with its wake-up: until then its turn is kept, and if the
//! room was not enough it is still where it was.

use crate::Errno;
use crate::abi::{MAX_WAITERS, cost};
use crate::{Domain, Endpoint};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// Was told of room and has not used it yet.
    Woken {
        /// How often the reader found the ring empty meanwhile.
        empty: u32,
    },
}

/// A turn that is not used lapses when the reader has found the ring empty so
/// often: long enough for a slow guest that was woken, where each message is
/// read at once, and no claim for ever on the room.
const LAPSES_AFTER: u32 = 256;

#[derive(Debug)]
pub(crate) struct Waiter {
    pub(crate) domain: Domain,
    /// Bytes of payload it waits to send.
    need: u32,
    state: State,
    /// Whom to tell.
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Default)]
pub(crate) struct Line {
    waiters: Vec<Waiter>,
}

impl Line {
    pub(crate) fn waiting(&self) -> usize {
        let waits = |waiter: &&Waiter| waiter.state == State::Waiting;
        self.waiters.iter().filter(waits).count()
    }

    /// What those ahead of `domain` will take when they get their turn, bytes;
    /// `can` says whose own messages leave them one.
    pub(crate) fn ahead_of(&self, domain: Domain, can: impl Fn(Domain, u32) -> bool) -> u32 {
        self.waiters
            .iter()
            .take_while(|waiter| waiter.domain != domain)
            .map(|waiter| (waiter.domain, cost(waiter.need)))
            .filter(|&(other, cost)| can(other, cost))
            .fold(0, |sum, (_, cost)| sum.saturating_add(cost))
    }

    /// Puts a domain into the line, or notes its larger need.
    ///
    /// Argo keeps one need for each domain, the largest, so that a wake-up is
    /// good for any of its messages.
    pub(crate) fn join(&mut self, endpoint: Endpoint, need: u32) -> Result<(), Errno> {
        let full = self.waiting() >= MAX_WAITERS;
        let domain = endpoint.domain();
        match self.waiters.iter_mut().find(|one| one.domain == domain) {
            Some(waiter) if waiter.state == State::Waiting => {
                waiter.need = waiter.need.max(need);
                if !waiter.endpoints.contains(&endpoint) {
                    waiter.endpoints.push(endpoint);
                }
            }
            _ if full => return Err(Errno::Ebusy),
            Some(waiter) => {
                waiter.need = need;
                waiter.state = State::Waiting;
                waiter.endpoints = vec![endpoint];
            }
            None => self.waiters.push(Waiter {
                domain,
                need,
                state: State::Waiting,
                endpoints: vec![endpoint],
            }),
        }
        Ok(())
    }

    /// The domain used the turn it was woken for.
    pub(crate) fn served(&mut self, domain: Domain) {
        self.waiters
            .retain(|waiter| waiter.domain != domain || waiter.state == State::Waiting);
    }

    /// The domain found that it need not wait; a turn it was woken for stays.
    pub(crate) fn cancel(&mut self, domain: Domain) {
        self.waiters
            .retain(|waiter| waiter.domain != domain || waiter.state != State::Waiting);
    }

    /// One endpoint waits no more; others of its domain may.
    pub(crate) fn leave_alone(&mut self, endpoint: Endpoint) {
        for waiter in &mut self.waiters {
            waiter.endpoints.retain(|&one| one != endpoint);
        }
        self.waiters.retain(|waiter| !waiter.endpoints.is_empty());
    }

    /// Takes out everybody for whom `stays` is false and returns those of them
    /// who were not woken yet and will not be.
    pub(crate) fn expel(&mut self, stays: impl Fn(Domain) -> bool) -> Vec<Endpoint> {
        let (kept, gone) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter: &Waiter| stays(waiter.domain));
        self.waiters = kept;
        gone.into_iter()
            .filter(|one| one.state == State::Waiting)
            .flat_map(|one| one.endpoints)
            .collect()
    }

    /// The ring is empty, and everybody is woken, because its reader, who has
    /// nothing to read, may not come back.
    pub(crate) fn wake_all(&mut self) -> Vec<Endpoint> {
        let mut woken = Vec::new();
        self.waiters.retain_mut(|waiter| match &mut waiter.state {
            State::Waiting => {
                waiter.state = State::Woken { empty: 0 };
                woken.extend_from_slice(&waiter.endpoints);
                true
            }
            State::Woken { empty } => {
                *empty += 1;
                *empty < LAPSES_AFTER
            }
        });
        woken
    }

    /// Wakes, from the first on, as many as `room` bytes are enough for; `can`
    /// says whose own messages leave them a turn. Turns not yet used count.
    pub(crate) fn wake(&mut self, room: u32, can: impl Fn(Domain, u32) -> bool) -> Vec<Endpoint> {
        let mut left = room;
        let mut woken = Vec::new();
        for waiter in &mut self.waiters {
            let cost = cost(waiter.need);
            if !can(waiter.domain, cost) {
                continue;
            }
            let Some(rest) = left.checked_sub(cost) else {
                break;
            };
            left = rest;
            if waiter.state == State::Waiting {
                waiter.state = State::Woken { empty: 0 };
                woken.extend_from_slice(&waiter.endpoints);
            }
        }
        woken
    }
}
