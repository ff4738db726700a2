// SPDX-License-Identifier: Apache-2.0
//! The way out, for whoever keeps the audit: bounded, and its losses are counted.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Entries that wait for a reader; more are counted as lost.
const KEPT: usize = 4096;

/// Entries on their way to a reader that may be slow, or not come at all.
#[derive(Debug)]
pub struct Outbox<T> {
    waiting: Mutex<(VecDeque<T>, u64)>,
    ready: OwnedFd,
}

impl<T> Outbox<T> {
    /// An empty one.
    ///
    /// # Errors
    /// The kernel has no eventfd to give.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            waiting: Mutex::new((VecDeque::new(), 0)),
            ready: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Adds an entry, or counts it as lost.
    pub fn note(&self, entry: T) {
        let mut waiting = self.lock();
        if waiting.0.len() >= KEPT {
            waiting.1 += 1;
            return;
        }
        waiting.0.push_back(entry);
        // One wake-up for all that come until somebody reads.
        if waiting.0.len() == 1 {
            let _ = rustix::io::write(&self.ready, &1u64.to_ne_bytes());
        }
    }

    /// Counts an entry as lost that nobody is to be bothered with.
    pub fn lose(&self) {
        self.lock().1 += 1;
    }

    /// Takes what waits, oldest first, and how many were lost.
    #[must_use]
    pub fn take(&self) -> (Vec<T>, u64) {
        let mut waiting = self.lock();
        let _ = rustix::io::read(&self.ready, &mut [0u8; 8]);
        let lost = std::mem::take(&mut waiting.1);
        (waiting.0.drain(..).collect(), lost)
    }

    /// Readable while entries wait.
    #[must_use]
    pub fn ready(&self) -> &OwnedFd {
        &self.ready
    }

    fn lock(&self) -> MutexGuard<'_, (VecDeque<T>, u64)> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_bounded_and_their_loss_counted() {
        let outbox = Outbox::new().unwrap();
        for number in 0..KEPT + 3 {
            outbox.note(number);
        }
        let (taken, lost) = outbox.take();
        assert_eq!(
            (taken.len(), taken.last(), lost),
            (KEPT, Some(&(KEPT - 1)), 3)
        );
        outbox.lose();
        assert_eq!(outbox.take(), (vec![], 1));
        assert_eq!(outbox.take(), (vec![], 0));
    }
}
