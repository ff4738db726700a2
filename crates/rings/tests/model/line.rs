// SPDX-License-Identifier: Apache-2.0
//! Room and waiting in the plain engine.

use std::collections::BTreeSet;

use super::script::Who;
use super::{ANY, Ring, cost};

#[derive(Debug)]
pub struct Waiter {
    pub id: u16,
    pub life: u32,
    need: u32,
    pub woken: bool,
    empties: u32,
    pub letters: BTreeSet<u8>,
}

impl Ring {
    pub fn used(&self) -> u32 {
        self.messages.iter().map(super::Sent::cost).sum()
    }

    /// The most bytes of the ring that one sender may have.
    pub fn limit(&self, percent: u32) -> u32 {
        let usable = self.len - 16;
        if self.partner != ANY {
            return usable;
        }
        let share = (u64::from(usable) * u64::from(percent) / 100) as u32;
        share.max(32) / 16 * 16
    }

    fn has(&self, id: u16, life: u32) -> u32 {
        let own = self
            .messages
            .iter()
            .filter(|one| (one.id, one.life) == (id, life));
        own.map(super::Sent::cost).sum()
    }

    /// Whether its own messages leave a waiter its turn.
    fn can(&self, one: &Waiter, percent: u32) -> bool {
        let has = if self.partner == ANY {
            self.has(one.id, one.life)
        } else {
            0
        };
        has + cost(one.need) <= self.limit(percent)
    }

    /// Bytes that a sender's next message may take.
    pub fn open_to(&self, id: u16, life: u32, percent: u32) -> u32 {
        let free = i64::from(self.len - 16) - i64::from(self.used());
        if self.partner != ANY {
            return free.max(0) as u32;
        }
        let mut open = free;
        if !self.messages.is_empty() {
            let place = self
                .line
                .iter()
                .position(|one| one.id == id)
                .unwrap_or(self.line.len());
            let ahead = self.line[..place]
                .iter()
                .filter(|one| self.can(one, percent));
            open -= ahead.map(|one| i64::from(cost(one.need))).sum::<i64>();
        }
        let own = i64::from(self.limit(percent)) - i64::from(self.has(id, life));
        open.min(own).max(0) as u32
    }

    pub fn waiting(&self) -> usize {
        self.line.iter().filter(|one| !one.woken).count()
    }

    /// Joins the line; false if that is full.
    pub fn wait(&mut self, who: Who, life: u32, need: u32) -> bool {
        let full = self.waiting() >= 32;
        let Some(one) = self.line.iter_mut().find(|one| one.id == who.0) else {
            if !full {
                self.line.push(Waiter {
                    id: who.0,
                    life,
                    need,
                    woken: false,
                    empties: 0,
                    letters: BTreeSet::from([who.1]),
                });
            }
            return !full;
        };
        if !one.woken {
            one.need = one.need.max(need);
            one.letters.insert(who.1);
            return true;
        }
        if !full {
            one.woken = false;
            one.need = need;
            one.letters = BTreeSet::from([who.1]);
        }
        !full
    }

    /// Whom the owner's notify tells of this ring.
    pub fn wake(&mut self, percent: u32) -> Vec<Who> {
        let mut told = vec![];
        let free = self.len - 16 - self.used();
        if self.messages.is_empty() {
            for one in &mut self.line {
                if one.woken {
                    one.empties += 1;
                } else {
                    one.woken = true;
                    one.empties = 0;
                    told.extend(one.letters.iter().map(|&letter| (one.id, letter)));
                }
            }
            self.line.retain(|one| !one.woken || one.empties < 256);
            return told;
        }
        if free < 32 {
            return told;
        }
        let mut left = free;
        for at in 0..self.line.len() {
            if !self.can(&self.line[at], percent) {
                continue;
            }
            let one = &mut self.line[at];
            if cost(one.need) > left {
                break;
            }
            left -= cost(one.need);
            if !one.woken {
                one.woken = true;
                one.empties = 0;
                told.extend(one.letters.iter().map(|&letter| (one.id, letter)));
            }
        }
        told
    }
}
