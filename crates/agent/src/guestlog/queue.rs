// SPDX-License-Identifier: Apache-2.0
//! Records on their way to the host, bounded: what does not fit is counted.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use inn_wire::guestlog::{Batch, Record};
use tokio::sync::Notify;

/// Records waiting, at most; with their content about half a MiB.
const MAX_WAITING: usize = 512;

/// Records of one batch: with full content still a frame of the host's limit.
const MAX_BATCH: usize = 60;

/// Bytes of content that make a batch worth sending at once.
const FULL: usize = 4 << 10;

/// The queue. Sources push, one sender takes.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    news: Notify,
}

#[derive(Default)]
struct State {
    records: VecDeque<Record>,
    bytes: usize,
    lost: u64,
}

impl Queue {
    /// Adds a record, or counts it.
    pub fn push(&self, record: Record) {
        let mut state = self.lock();
        if state.records.len() < MAX_WAITING {
            state.bytes += record.content.len();
            state.records.push_back(record);
        } else {
            state.lost += 1;
        }
        drop(state);
        self.news.notify_one();
    }

    /// Counts records that were lost elsewhere.
    pub fn lose(&self, count: u64) {
        let mut state = self.lock();
        state.lost = state.lost.saturating_add(count);
    }

    /// Waits until there is something.
    pub async fn filled(&self) {
        while self.lock().records.is_empty() {
            self.news.notified().await;
        }
    }

    /// Waits until there is a batch worth sending at once.
    pub async fn full(&self) {
        while !self.is_full() {
            self.news.notified().await;
        }
    }

    fn is_full(&self) -> bool {
        let state = self.lock();
        state.bytes >= FULL || state.records.len() >= MAX_BATCH
    }

    /// The eldest records, and how many were lost.
    pub fn take(&self) -> Batch {
        let mut state = self.lock();
        let count = state.records.len().min(MAX_BATCH);
        let records: Vec<_> = state.records.drain(..count).collect();
        state.bytes -= records
            .iter()
            .map(|record| record.content.len())
            .sum::<usize>();
        let lost = std::mem::take(&mut state.lost);
        Batch { records, lost }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::{MAX_CONTENT, parse_user};
    use super::*;
    use inn_wire::frame::{MESSAGE_LIMIT, encode};

    #[test]
    fn what_does_not_fit_is_counted() {
        let queue = Queue::default();
        for _ in 0..MAX_WAITING + 7 {
            queue.push(parse_user(&[b'x'; 2 * MAX_CONTENT], u64::MAX));
        }
        queue.lose(3);
        let batch = queue.take();
        assert_eq!((batch.records.len(), batch.lost), (MAX_BATCH, 10));
        assert!(encode(&batch, MESSAGE_LIMIT).is_ok());
        let mut left = 0;
        while let count @ 1.. = queue.take().records.len() {
            left += count;
        }
        assert_eq!(left, MAX_WAITING - MAX_BATCH);
        assert_eq!(queue.lock().bytes, 0);
    }
}
