// SPDX-License-Identifier: Apache-2.0
//! Counters that any thread may read while the device runs.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Live counters, written by the device thread only.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: Counter,)* }

        /// One reading of the device's counters.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub struct Stats { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            /// Reads every counter; each value is exact, the set is not atomic.
            pub(crate) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Streams that are established now.
    connections_open,
    /// Streams established since start, in both directions.
    connections_total,
    /// Streams that were asked for and never established.
    refused,
    /// Established streams that ended by a reset instead of an orderly close.
    reset,
    /// Stream bytes copied into guest memory.
    bytes_to_guest,
    /// Stream bytes written to Unix sockets.
    bytes_to_host,
    /// Malformed descriptor chains and packets that were thrown away.
    packets_dropped,
    /// Packets whose source CID was not the guest's.
    forged_cid,
    /// Streams reset because the guest sent more than it had credit for.
    credit_violations,
    /// Streams with other guests that the table did not allow.
    denied,
    /// Streams with other guests that a new table ended.
    cut,
    /// Virtqueues stopped because their rings were malformed.
    broken_queues,
}

/// A number that only grows or, for `connections_open`, follows a count.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        // Relaxed: a reader wants numbers, not an order between them.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
