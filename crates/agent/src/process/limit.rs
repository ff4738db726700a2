// SPDX-License-Identifier: Apache-2.0
//! How often a program is started again before it counts as broken.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Starts within the window after which a program counts as broken.
pub const MAX_STARTS: usize = 10;
/// The window.
pub const START_WINDOW: Duration = Duration::from_secs(30);

/// Counts starts in a moving window.
#[derive(Default)]
pub struct StartLimit(VecDeque<Instant>);

impl StartLimit {
    /// Notes a start at `now`, if one more is allowed.
    pub fn allows(&mut self, now: Instant) -> bool {
        self.0
            .retain(|start| now.duration_since(*start) < START_WINDOW);
        let allowed = self.0.len() < MAX_STARTS;
        if allowed {
            self.0.push_back(now);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_starts_in_thirty_seconds() {
        let mut limit = StartLimit::default();
        let begin = Instant::now();
        for second in 0..10 {
            assert!(limit.allows(begin + Duration::from_secs(second)));
        }
        assert!(!limit.allows(begin + Duration::from_secs(29)));
        assert!(limit.allows(begin + Duration::from_secs(30)));
        assert!(!limit.allows(begin + Duration::from_secs(30)));
    }
}
