// SPDX-License-Identifier: Apache-2.0
//! The one place that collects exit statuses.
//!
//! PID 1 inherits every orphan of the guest and must collect each one, but a
//! `waitpid(-1)` also collects children somebody waits for. So there is one
//! table of expected children, and one collector that serves the table first.
//! The gap between fork and the table's entry is closed by a lock: while any
//! thread is inside [`Reaper::start`], only listed children are collected.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::{Notify, watch};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    /// One number for both, as shells have it: 128 + N after signal N.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(number) => 128 + number,
        }
    }

    fn from_wait_status(status: libc::c_int) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal(libc::WTERMSIG(status))
        } else {
            Self::Code(libc::WEXITSTATUS(status))
        }
    }
}

/// A started process whose exit will be known.
#[derive(Clone, Debug)]
pub struct Child {
    /// Its pid; also its session and its process group.
    pub pid: Pid,
    exit: watch::Receiver<Option<Exit>>,
}

impl Child {
    /// Waits for the end of the process.
    pub async fn exited(&mut self) -> Exit {
        match self.exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(Exit::Code(0)),
            // The reaper is gone only when the agent itself ends.
            Err(_) => Exit::Signal(libc::SIGKILL),
        }
    }
}

/// Shared handle to the table of expected children.
#[derive(Clone, Default)]
pub struct Reaper(Arc<Inner>);

#[derive(Default)]
struct Inner {
    expected: Mutex<HashMap<i32, watch::Sender<Option<Exit>>>>,
    starting: RwLock<()>,
    look_again: Notify,
}

impl Reaper {
    /// Runs `fork`, which returns a new child's pid, and expects that child.
    /// Blocks as long as `fork` does: call it on a thread that may block.
    pub fn start<E>(&self, fork: impl FnOnce() -> Result<Pid, E>) -> Result<Child, E> {
        let result = {
            let _gap = self
                .0
                .starting
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            fork().map(|pid| {
                let (sender, exit) = watch::channel(None);
                self.expected().insert(pid.as_raw(), sender);
                Child { pid, exit }
            })
        };
        // The child may have ended, or orphans been left, before this point.
        self.0.look_again.notify_one();
        result
    }

    /// Signals a child's process group, unless the child was collected: then
    /// its number may already name somebody else.
    pub fn signal_group(&self, pid: Pid, signal: Signal) -> bool {
        let expected = self.expected();
        expected.contains_key(&pid.as_raw()) && killpg(pid, signal).is_ok()
    }

    /// Signals every running child's process group.
    pub fn signal_all(&self, signal: Signal) {
        for pid in self.expected().keys() {
            let _ = killpg(Pid::from_raw(*pid), signal);
        }
    }

    /// Collects children until the program ends.
    pub async fn run(self) -> std::io::Result<()> {
        let mut deaths: Signals = signal(SignalKind::child())?;
        loop {
            self.collect();
            tokio::select! {
                _ = deaths.recv() => {}
                () = self.0.look_again.notified() => {}
            }
        }
    }

    fn collect(&self) {
        let mut expected = self.expected();
        let alone = match self.0.starting.try_write() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        if alone.is_some() {
            while let Some((pid, exit)) = wait_now(-1) {
                // An orphan is in no table: its status is nobody's.
                if let Some(sender) = expected.remove(&pid) {
                    sender.send_replace(Some(exit));
                }
            }
        } else {
            expected.retain(|pid, sender| match wait_now(*pid) {
                Some((_, exit)) => {
                    sender.send_replace(Some(exit));
                    false
                }
                None => true,
            });
        }
    }

    fn expected(&self) -> MutexGuard<'_, HashMap<i32, watch::Sender<Option<Exit>>>> {
        self.0
            .expected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Collects one ended child, if there is one. Not nix's `waitpid`: that loses
/// the status of a child killed by a real-time signal, which it cannot name.
fn wait_now(pid: i32) -> Option<(i32, Exit)> {
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes one int, which `status` is.
        let result = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
        match Errno::result(result) {
            Ok(0) => return None,
            Ok(pid) => return Some((pid, Exit::from_wait_status(status))),
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// Waits for a child that never became a program. For use inside `start`.
pub fn discard(pid: Pid) {
    let mut status = 0;
    // SAFETY: waitpid writes one int, which `status` is.
    while unsafe { libc::waitpid(pid.as_raw(), &raw mut status, 0) } == -1
        && Errno::last() == Errno::EINTR
    {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses() {
        assert_eq!(Exit::from_wait_status(0x0700), Exit::Code(7));
        assert_eq!(Exit::from_wait_status(9).shell_code(), 137);
        // SIGRTMIN with a core dump.
        assert_eq!(Exit::from_wait_status(34 | 0x80), Exit::Signal(34));
    }

    #[test]
    fn a_failed_start_expects_nobody() {
        let reaper = Reaper::default();
        assert!(reaper.start(|| Err::<Pid, _>("no")).is_err());
        assert!(reaper.expected().is_empty());
        assert!(!reaper.signal_group(Pid::from_raw(i32::MAX), Signal::SIGTERM));
    }
}
