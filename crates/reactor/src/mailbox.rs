// SPDX-License-Identifier: Apache-2.0
//! The way in for other threads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// Commands for a thread, and the descriptor that wakes it.
#[derive(Debug)]
pub struct Mailbox<C> {
    /// `None` once the thread has ended: nobody reads any more.
    commands: Mutex<Option<Vec<C>>>,
    wake: OwnedFd,
}

impl<C> Mailbox<C> {
    /// An empty mailbox.
    ///
    /// # Errors
    /// The kernel has no eventfd to give.
    pub fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            commands: Mutex::new(Some(Vec::new())),
            wake,
        })
    }

    /// Queues a command.
    ///
    /// # Errors
    /// The command, if the thread has ended.
    pub fn post(&self, command: C) -> Result<(), C> {
        match self.lock().as_mut() {
            Some(commands) => commands.push(command),
            None => return Err(command),
        }
        // An eventfd fails only when it is readable already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        Ok(())
    }

    /// What was queued, in order.
    pub fn take(&self) -> Vec<C> {
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        self.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes no more; what is queued is dropped.
    pub fn seal(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Vec<C>>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Readable while commands wait.
impl<C> AsFd for Mailbox<C> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
