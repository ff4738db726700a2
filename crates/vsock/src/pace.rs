// SPDX-License-Identifier: Apache-2.0
//! How fast a guest may connect to another that does not answer.
//!
//! A listening socket has room for so many connections that its program has not
//! taken yet, and a guest's kernel refuses those beyond (`sk_acceptq_is_full` in
//! net/vmw_vsock), whoever asks. So a guest that connects and connects takes the
//! room of all others. Its own device slows it down: a few at once, then one
//! after the other, and slower yet where it is refused. Whatever the other program
//! sends shows that it took the connection, and gives the place back; who is
//! answered never waits, and where there is no room for a moment, is asked for
//! again instead of refused.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Connections at once that nobody has answered yet.
const AT_ONCE: u32 = 16;
/// After this time a connection counts no more, answered or not.
const EVERY: Duration = Duration::from_millis(5);
/// A connection waits no longer than this. Linux guests give up after 2 s
/// (`VSOCK_DEFAULT_CONNECT_TIMEOUT`).
const LONGEST: Duration = Duration::from_millis(1500);
/// So many connections one counts as that was refused.
const REFUSED: u32 = 10;
/// A port that answered in this time has a listener, so what is refused there
/// found no room.
const RECENT: Duration = Duration::from_secs(1);
/// Ports of which is known when they answered.
const MAX_PORTS: usize = 64;

/// The connections of one guest to one other.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When all of them count no more.
    free_at: Option<Instant>,
    /// When ports of the other last answered.
    heard: HashMap<u32, Instant>,
}

impl Pace {
    /// Counts one more connection; how long it has to wait.
    pub(crate) fn next(&mut self, now: Instant) -> Duration {
        let busy = self.count(now, 1);
        (busy + EVERY).saturating_sub(EVERY * AT_ONCE)
    }

    /// The other's program at this port answered one of them.
    pub(crate) fn answered(&mut self, port: u32, now: Instant) {
        self.free_at = self.free_at.and_then(|at| at.checked_sub(EVERY));
        if self.heard.len() >= MAX_PORTS {
            self.heard
                .retain(|_, at| now.saturating_duration_since(*at) < RECENT);
        }
        if self.heard.len() < MAX_PORTS || self.heard.contains_key(&port) {
            self.heard.insert(port, now);
        }
    }

    /// The other refused one of them; whether it may be asked again.
    pub(crate) fn refused(&mut self, port: u32, now: Instant) -> bool {
        let recent = self
            .heard
            .get(&port)
            .is_some_and(|at| now.saturating_duration_since(*at) < RECENT);
        if !recent {
            self.count(now, REFUSED);
        }
        recent
    }

    /// How long those before count still.
    fn count(&mut self, now: Instant, connections: u32) -> Duration {
        let busy = self
            .free_at
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
            .min(LONGEST + EVERY * AT_ONCE);
        self.free_at = Some(now + busy + EVERY * connections);
        busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_answered_has_to_wait() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..AT_ONCE {
            assert_eq!(pace.next(now), Duration::ZERO);
        }
        assert_eq!(pace.next(now), EVERY);
        assert_eq!(pace.next(now), EVERY * 2);
        // Later they are forgotten, one by one.
        let later = now + EVERY * 4;
        assert_eq!(pace.next(later), Duration::ZERO);
        assert_eq!(pace.next(later), Duration::ZERO);
        assert_eq!(pace.next(later), EVERY);
        let much_later = now + Duration::from_secs(60);
        assert_eq!(pace.next(much_later), Duration::ZERO);
    }

    #[test]
    fn who_is_answered_never_waits() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..1000 {
            assert_eq!(pace.next(now), Duration::ZERO);
            pace.answered(7, now);
        }
    }

    #[test]
    fn who_is_refused_waits_longer_or_tries_again() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        assert!(!pace.refused(7, now));
        assert!(!pace.refused(7, now));
        assert_eq!(pace.next(now), EVERY * (2 * REFUSED + 1 - AT_ONCE));
        pace.answered(7, now);
        assert!(pace.refused(7, now));
        assert!(!pace.refused(8, now));
        assert!(!pace.refused(7, now + RECENT));
        for port in 0..1000 {
            pace.answered(port, now);
        }
        assert_eq!(pace.heard.len(), MAX_PORTS);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        let longest = (0..10_000).map(|_| pace.next(now)).max();
        assert!(longest.is_some_and(|longest| longest <= LONGEST + EVERY));
    }
}
