// SPDX-License-Identifier: Apache-2.0
//! Waiting: epoll for descriptors, an ordered set for deadlines.

use std::collections::BTreeSet;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};

/// What an event is about, as epoll carries it.
pub trait Token: Copy + Ord {
    /// As a number.
    fn encode(self) -> u64;
    /// Back from it; `None` for a number that means nothing.
    fn decode(data: u64) -> Option<Self>;
}

/// One event: what it is about and how ready it is.
#[derive(Debug, Clone, Copy)]
pub struct Event<T> {
    /// What it is about.
    pub token: T,
    /// Reading will tell something: bytes, end of file or an error.
    pub readable: bool,
    /// Writing may go on.
    pub writable: bool,
    /// The peer closed its socket altogether.
    pub hung_up: bool,
}

/// An epoll instance.
#[derive(Debug)]
pub struct Poller<T> {
    epoll: OwnedFd,
    tokens: PhantomData<fn() -> T>,
}

impl<T: Token> Poller<T> {
    /// Creates the epoll instance.
    ///
    /// # Errors
    /// The kernel has none to give.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            tokens: PhantomData,
        })
    }

    /// Reports `fd` for as long as it is readable.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_level(&self, fd: impl AsFd, token: T) -> io::Result<()> {
        self.add(fd, token, epoll::EventFlags::IN)
    }

    /// Reports every *change* of a stream socket. Streams often stay readable
    /// for lack of guest credit; level-triggered they would spin, and arming
    /// and disarming costs two system calls per packet.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn add_edge(&self, fd: impl AsFd, token: T) -> io::Result<()> {
        use epoll::EventFlags as F;
        self.add(fd, token, F::IN | F::OUT | F::RDHUP | F::ET)
    }

    fn add(&self, fd: impl AsFd, token: T, flags: epoll::EventFlags) -> io::Result<()> {
        epoll::add(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(token.encode()),
            flags,
        )?;
        Ok(())
    }

    /// Stops reporting `fd`.
    pub fn remove(&self, fd: impl AsFd) {
        // The only failure is that it was not registered.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits for events, at most until `deadline`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn wait(&self, events: &mut Vec<Event<T>>, deadline: Option<Instant>) -> io::Result<()> {
        let timeout =
            deadline.map(|deadline| timespec(deadline.saturating_duration_since(Instant::now())));
        let mut raw = [const { std::mem::MaybeUninit::<epoll::Event>::uninit() }; 64];
        events.clear();
        let ready = match epoll::wait(&self.epoll, &mut raw[..], timeout.as_ref()) {
            Ok((ready, _)) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        events.extend(ready.iter().filter_map(|event| {
            use epoll::EventFlags as F;
            let flags = event.flags;
            let ended = flags.intersects(F::HUP | F::ERR);
            Some(Event {
                token: T::decode(event.data.u64())?,
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
#[derive(Debug)]
pub struct Timers<T>(BTreeSet<(Instant, T)>);

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<T: Token> Timers<T> {
    /// Replaces the deadline in `slot`.
    pub fn set(&mut self, slot: &mut Option<Instant>, token: T, after: Option<Duration>) {
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
    pub fn expired(&mut self, now: Instant) -> Option<T> {
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

    impl Token for u64 {
        fn encode(self) -> u64 {
            self
        }

        fn decode(data: u64) -> Option<Self> {
            Some(data)
        }
    }

    #[test]
    fn timers_expire_in_order_and_can_be_cancelled() {
        let mut timers = Timers::<u64>::default();
        let (mut first, mut second) = (None, None);
        timers.set(&mut second, 2, Some(Duration::from_secs(2)));
        timers.set(&mut first, 1, Some(Duration::from_secs(1)));
        assert_eq!(timers.expired(Instant::now()), None);
        let later = Instant::now() + Duration::from_secs(3);
        assert_eq!(timers.expired(later), Some(1));
        timers.set(&mut second, 2, None);
        assert_eq!((timers.next(), second), (None, None));
    }
}
