// SPDX-License-Identifier: Apache-2.0
//! The handle by which a program owns a board.

use std::os::fd::OwnedFd;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use inn_reactor::check_socket;
use inn_rings::abi::FIRST_RESERVED_ID;

use crate::audit::Decisions;
use crate::board::Board;
use crate::error::Error;
use crate::event_loop::{Command, Mailbox, run};
use crate::listeners::Clients;
use crate::table::{HOST, Rules};
use crate::token::Token;

/// What a board begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The id of the guest's domain: its CID.
    pub guest: u16,
    /// What is allowed; it can be replaced.
    pub rules: Rules,
    /// How long another keeper may take for an answer; then it is taken as dead.
    pub answer_timeout: Duration,
}

impl Config {
    /// The limits that keepers use.
    #[must_use]
    pub const fn new(guest: u16, rules: Rules) -> Self {
        Self {
            guest,
            rules,
            answer_timeout: Duration::from_secs(10),
        }
    }
}

/// A running board. Dropping it closes it.
#[derive(Debug)]
pub struct RingBoard {
    decisions: Arc<Decisions>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    mailbox: Arc<Mailbox>,
    thread: JoinHandle<()>,
}

impl RingBoard {
    /// Starts a board; `guest` and `host` listen for the guest's and the host's
    /// programs, and are closed with it, also if this fails.
    ///
    /// # Errors
    /// [`Error::InvalidId`]; [`Error::Descriptor`] and [`Error::Start`] for what
    /// the kernel refuses.
    pub fn start(config: Config, guest: OwnedFd, host: OwnedFd) -> Result<Self, Error> {
        if config.guest == HOST || config.guest >= FIRST_RESERVED_ID {
            return Err(Error::InvalidId(config.guest));
        }
        check(&guest, "guest")?;
        check(&host, "host")?;
        let decisions = Arc::new(Decisions::new()?);
        let mut board = Board::new(config.guest, decisions.clone())?;
        board.answer_timeout = config.answer_timeout;
        board.set_rules(config.rules);
        let mailbox = Arc::new(Mailbox::new()?);
        board.poller.add_level(&*mailbox, Token::Wake)?;
        board.add_listener(guest, Clients::Guest)?;
        board.add_listener(host, Clients::Host)?;
        let inbox = mailbox.clone();
        let thread = std::thread::Builder::new()
            .name("inn-rings".into())
            .spawn(move || run(board, &inbox))?;
        Ok(Self {
            decisions,
            running: Mutex::new(Some(Running { mailbox, thread })),
        })
    }

    /// Serves the keeper of the guest `peer` on `listener`, as long as the rules
    /// have it. Who can connect to the listener speaks for that guest.
    ///
    /// # Errors
    /// [`Error::Closed`] after `close()`; [`Error::Descriptor`] if it does not
    /// listen. It is closed in both cases.
    pub fn link(&self, listener: OwnedFd, peer: u16) -> Result<(), Error> {
        check(&listener, "link")?;
        self.post(Command::Link(listener, peer))
    }

    /// Replaces the rules and returns when they are in force: rings and waiters
    /// that they do not allow are gone then.
    ///
    /// # Errors
    /// [`Error::Closed`] after `close()`.
    pub fn set_rules(&self, rules: Rules) -> Result<(), Error> {
        let (done, in_force) = sync_channel(1);
        self.post(Command::SetRules(rules, done))?;
        in_force.recv().map_err(|_| Error::Closed)
    }

    /// What was allowed and refused.
    #[must_use]
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Ends the thread and closes every descriptor. May be called again and from
    /// any thread.
    pub fn close(&self) {
        let mut guard = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = guard.take() else { return };
        // The lock is kept: a second caller returns when all is closed, too.
        let _ = running.mailbox.post(Command::Close);
        let _ = running.thread.join();
    }

    fn post(&self, command: Command) -> Result<(), Error> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mailbox = &running.as_ref().ok_or(Error::Closed)?.mailbox;
        mailbox.post(command).map_err(|_| Error::Closed)
    }
}

fn check(listener: &OwnedFd, role: &'static str) -> Result<(), Error> {
    check_socket(listener, true).map_err(|source| Error::Descriptor { role, source })
}

impl Drop for RingBoard {
    fn drop(&mut self) {
        self.close();
    }
}
