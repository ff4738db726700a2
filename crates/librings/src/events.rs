// SPDX-License-Identifier: Apache-2.0
//! Events that nobody asked for yet.

use inn_ringwire::{Notice, What};

const MOST: usize = 512;

/// More happened than is remembered: look at all rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

/// The same event twice says no more than once, so there are few.
#[derive(Debug)]
pub(crate) struct Events {
    kept: [Notice; MOST],
    first: usize,
    len: usize,
    lost: bool,
}

impl Events {
    pub(crate) const fn new() -> Self {
        let nothing = Notice {
            port: 0,
            partner: 0,
            owner: 0,
            what: What::Arrival,
        };
        Self {
            kept: [nothing; MOST],
            first: 0,
            len: 0,
            lost: false,
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0 && !self.lost
    }

    pub(crate) fn push(&mut self, notice: Notice) {
        let mut present = (0..self.len).map(|index| self.kept[(self.first + index) % MOST]);
        if present.any(|one| one == notice) {
            return;
        }
        if self.len == MOST {
            self.lost = true;
            return;
        }
        self.kept[(self.first + self.len) % MOST] = notice;
        self.len += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<Result<Notice, Lost>> {
        if self.len > 0 {
            let notice = self.kept[self.first];
            self.first = (self.first + 1) % MOST;
            self.len -= 1;
            return Some(Ok(notice));
        }
        core::mem::take(&mut self.lost).then_some(Err(Lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(port: u32) -> Notice {
        Notice {
            port,
            partner: 1,
            owner: 2,
            what: What::Space,
        }
    }

    #[test]
    fn the_same_is_kept_once_and_order_stays() {
        let mut events = Events::new();
        for port in [1, 2, 1, 3] {
            events.push(notice(port));
        }
        let found: Vec<_> = std::iter::from_fn(|| events.pop()).collect();
        assert_eq!(found, [1, 2, 3].map(|port| Ok(notice(port))));
        assert!(events.is_empty());
    }

    #[test]
    fn too_many_are_told() {
        let mut events = Events::new();
        for port in 0..2000 {
            events.push(notice(port));
        }
        let found: Vec<_> = std::iter::from_fn(|| events.pop()).collect();
        assert_eq!(found.len(), MOST + 1);
        assert_eq!(found.last(), Some(&Err(Lost)));
        assert!(events.is_empty());
    }
}
