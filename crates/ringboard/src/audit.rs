// SPDX-License-Identifier: Apache-2.0
//! What was allowed and refused, for the machine's audit.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use inn_rings::Operation;
use inn_rings::Verdict;

/// Distinct decisions that are remembered, so as not to be told again. A guest
/// that tries more is told of again, and the queue behind is bounded too.
const REMEMBERED: usize = 4096;
/// Decisions that are told in a second, and the rest counted: a guest that tries
/// one port after the other must not keep busy whoever writes them down.
const TOLD_A_SECOND: u32 = 500;

/// One decision of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Decision {
    /// Who sends, or would; `None` where anybody may: a wildcard ring.
    pub sender: Option<u16>,
    /// Whose the ring is, or would be.
    pub owner: u16,
    /// What was to be done.
    pub operation: Operation,
    /// The ring's port.
    pub port: u32,
    /// The sender's port; 0 where there is none.
    pub from_port: u32,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Allowed.
    Allowed,
    /// Refused.
    Denied,
    /// It was there, and a new policy does not allow it.
    Cut,
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Allow => Self::Allowed,
            Verdict::Refuse(_) => Self::Denied,
        }
    }
}

/// Decisions on their way to whoever keeps the audit.
pub type Decisions = inn_reactor::Outbox<Decision>;

/// Tells each decision once for each policy: messages are many.
#[derive(Debug)]
pub(crate) struct Audit {
    decisions: Arc<Decisions>,
    told: HashSet<Decision>,
    second: Instant,
    in_this_second: u32,
}

impl Audit {
    pub(crate) fn new(decisions: Arc<Decisions>) -> Self {
        Self {
            decisions,
            told: HashSet::new(),
            second: Instant::now(),
            in_this_second: 0,
        }
    }

    pub(crate) fn note(&mut self, decision: Decision) {
        // Another source port is no other decision.
        let key = Decision {
            from_port: 0,
            ..decision
        };
        if self.told.len() >= REMEMBERED {
            self.told.clear();
        }
        if !self.told.insert(key) {
            return;
        }
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.second = Instant::now();
            self.in_this_second = 0;
        }
        if self.in_this_second >= TOLD_A_SECOND {
            return self.decisions.lose();
        }
        self.in_this_second += 1;
        self.decisions.note(decision);
    }

    /// There is a new policy.
    pub(crate) fn forget(&mut self) {
        self.told.clear();
    }
}
