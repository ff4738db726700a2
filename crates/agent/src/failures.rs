// SPDX-License-Identifier: Apache-2.0
//! What the agent could not do, said once per cause: on the console at once,
//! and to the host on every announcement (a new keeper knows nothing yet).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use inn_wire::announce::Failure;
use tokio::sync::watch;

use crate::console;

/// More causes than this are a flood; later ones stay on the console.
const MAX_KEPT: usize = 64;

/// Longest text sent, in bytes.
const MAX_TEXT: usize = 1000;

/// The failures so far. Clones share one list.
#[derive(Clone)]
pub struct Failures {
    known: Arc<Mutex<HashSet<Failure>>>,
    list: watch::Sender<Vec<Failure>>,
}

impl Failures {
    /// Starts with what went wrong before, already said on the console.
    pub fn new(earlier: Vec<Failure>) -> Self {
        let known = earlier.iter().cloned().collect();
        Self {
            known: Arc::new(Mutex::new(known)),
            list: watch::Sender::new(earlier),
        }
    }

    /// Says a failure, unless it was said before.
    pub fn report(&self, what: &str, detail: impl std::fmt::Display) {
        let failure = describe(what, detail);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_KEPT && known.insert(failure.clone()) {
            console::say(format_args!("{}: {}", failure.what, failure.detail));
            self.list.send_modify(|list| list.push(failure));
        }
    }

    /// A view of the list that wakes when it grows.
    pub fn subscribe(&self) -> watch::Receiver<Vec<Failure>> {
        self.list.subscribe()
    }
}

/// A failure with its texts cut to the bound.
pub fn describe(what: &str, detail: impl std::fmt::Display) -> Failure {
    Failure {
        what: bounded(what.to_owned()),
        detail: bounded(detail.to_string()),
    }
}

fn bounded(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT)
            .rev()
            .find(|&end| text.is_char_boundary(end))
            .unwrap_or(0);
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_per_cause_and_bounded() {
        let failures = Failures::new(Vec::new());
        let seen = failures.subscribe();
        failures.report("module", "a");
        failures.report("module", "a");
        failures.report("module", "é".repeat(MAX_TEXT));
        assert_eq!(seen.borrow().len(), 2);
        assert!(seen.borrow()[1].detail.len() <= MAX_TEXT);
        for i in 0..2 * MAX_KEPT {
            failures.report("flood", i);
        }
        assert_eq!(seen.borrow().len(), MAX_KEPT);
    }
}
