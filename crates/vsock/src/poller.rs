// SPDX-License-Identifier: Apache-2.0
//! Waiting: epoll for descriptors, an ordered set for deadlines.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Token {
    /// Another thread queued a command.
    Wake,
    /// QEMU sent a vhost-user message or hung up.
    Vhost,
    /// The guest kicked this queue.
    Kick(u8),
    /// A client connected to this listener.
    Listener(u64),
    /// A client that has not finished its `CONNECT` line.
    Handshake(u64),
    /// The local socket of a stream.
    Stream(u64),
}

impl Token {
    const KIND_SHIFT: u32 = 56;

    fn encode(self) -> u64 {
        // Identities count up from zero one by one and never reach 2^56.
        let (kind, id) = match self {
            Self::Wake => (0, 0),
            Self::Vhost => (1, 0),
            Self::Kick(index) => (2, u64::from(index)),
            Self::Listener(id) => (3, id),
            Self::Handshake(id) => (4, id),
            Self::Stream(id) => (5, id),
        };
        kind << Self::KIND_SHIFT | id
    }

    fn decode(data: u64) -> Option<Self> {
        let id = data & ((1 << Self::KIND_SHIFT) - 1);
        Some(match data >> Self::KIND_SHIFT {
            0 => Self::Wake,
            1 => Self::Vhost,
            2 => Self::Kick(u8::try_from(id).ok()?),
            3 => Self::Listener(id),
            4 => Self::Handshake(id),
            5 => Self::Stream(id),
            _ => return None,
        })
    }
}

/// One event: what it is about and how ready it is.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// What it is about.
    pub token: Token,
    /// Reading will tell something: bytes, end of file or an error.
    pub readable: bool,
    /// Writing may go on.
    pub writable: bool,
    /// The peer closed its socket altogether.
    pub hung_up: bool,
}

/// An epoll instance.
#[derive(Debug)]
pub struct Poller(OwnedFd);

impl Poller {
    /// Creates the epoll instance.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Reports `fd` for as long as it is readable.
    pub fn add_level(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        self.add(fd, token, epoll::EventFlags::IN)
    }

    /// Reports every *change* of a stream socket. Streams often stay readable
    /// for lack of guest credit; level-triggered they would spin, and arming
    /// and disarming costs two system calls per packet.
    pub fn add_edge(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        use epoll::EventFlags as F;
        self.add(fd, token, F::IN | F::OUT | F::RDHUP | F::ET)
    }

    fn add(&self, fd: impl AsFd, token: Token, flags: epoll::EventFlags) -> io::Result<()> {
        epoll::add(
            &self.0,
            fd,
            epoll::EventData::new_u64(token.encode()),
            flags,
        )?;
        Ok(())
    }

    /// Stops reporting `fd`.
    pub fn remove(&self, fd: impl AsFd) {
        // The only failure is that it was not registered.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Waits for events, at most until `deadline`.
    pub fn wait(&self, events: &mut Vec<Event>, deadline: Option<Instant>) -> io::Result<()> {
        let timeout =
            deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        let mut raw = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 64];
        events.clear();
        let ready = match epoll::wait(&self.0, &mut raw[..], timeout.as_ref()) {
            Ok((ready, _)) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        events.extend(ready.iter().filter_map(|event| {
            use epoll::EventFlags as F;
            let flags = event.flags;
            let ended = flags.intersects(F::HUP | F::ERR);
            Some(Event {
                token: Token::decode(event.data.u64())?,
                readable: ended || flags.intersects(F::IN | F::RDHUP),
                writable: flags.contains(F::OUT),
                hung_up: flags.contains(F::HUP),
            })
        }));
        Ok(())
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        // Deadlines are seconds ahead; the fallback is "very long".
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// Deadlines in order. The owner of a deadline keeps its instant to cancel it.
#[derive(Debug, Default)]
pub struct Timers(BTreeSet<(Instant, Token)>);

impl Timers {
    /// Replaces the deadline in `slot`.
    pub fn set(&mut self, slot: &mut Option<Instant>, token: Token, after: Option<Duration>) {
        if let Some(old) = slot.take() {
            self.0.remove(&(old, token));
        }
        if let Some(after) = after {
            let at = Instant::now() + after;
            self.0.insert((at, token));
            *slot = Some(at);
        }
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes one deadline that has passed.
    pub fn expired(&mut self, now: Instant) -> Option<Token> {
        let first = *self.0.first()?;
        if first.0 > now {
            return None;
        }
        self.0.remove(&first);
        Some(first.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_epoll() {
        for token in [
            Token::Wake,
            Token::Vhost,
            Token::Kick(2),
            Token::Listener(9),
            Token::Handshake(1 << 40),
            Token::Stream((1 << 56) - 1),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(u64::MAX), None);
    }

    #[test]
    fn timers_expire_in_order_and_can_be_cancelled() {
        let mut timers = Timers::default();
        let (mut first, mut second) = (None, None);
        timers.set(&mut second, Token::Stream(2), Some(Duration::from_secs(2)));
        timers.set(&mut first, Token::Stream(1), Some(Duration::from_secs(1)));
        assert_eq!(timers.expired(Instant::now()), None);
        let later = Instant::now() + Duration::from_secs(3);
        assert_eq!(timers.expired(later), Some(Token::Stream(1)));
        timers.set(&mut second, Token::Stream(2), None);
        assert_eq!((timers.next(), second), (None, None));
    }
}
