// SPDX-License-Identifier: Apache-2.0
//! Input on its way to a process: a bounded queue and the task that empties it.
//!
//! The queue lets signals and resizes overtake input that the process does not
//! read. When it is full, the connection is not read either, and the peer feels
//! the back-pressure.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};

use crate::process::pipe::PipeWriter;
use crate::stream::Stream;

/// Bytes the queue holds.
const CAPACITY: usize = 256 << 10;

/// What one piece costs besides its bytes, so that many tiny ones are bounded.
const PIECE_COST: usize = 64;

/// End of transmission: the terminal's own end of file.
const CTRL_D: &[u8] = &[4];

/// The queue's entrance.
pub struct Queue {
    pieces: mpsc::UnboundedSender<Bytes>,
    budget: Arc<Semaphore>,
}

/// The queue's exit.
pub struct Feed {
    pieces: mpsc::UnboundedReceiver<Bytes>,
    budget: Arc<Semaphore>,
}

/// A new queue.
pub fn queue() -> (Queue, Feed) {
    let budget = Arc::new(Semaphore::new(CAPACITY));
    let (sender, receiver) = mpsc::unbounded_channel();
    (
        Queue {
            pieces: sender,
            budget: Arc::clone(&budget),
        },
        Feed {
            pieces: receiver,
            budget,
        },
    )
}

/// What the queue charges for a piece.
fn cost(piece: &Bytes) -> u32 {
    // A message is at most 64 KiB, a quarter of the capacity.
    u32::try_from((piece.len() + PIECE_COST).min(CAPACITY)).unwrap_or(u32::MAX)
}

impl Queue {
    /// Adds a piece; empty means the end. Waits for room.
    pub async fn push(&self, piece: Bytes) {
        if let Ok(permit) = self.budget.acquire_many(cost(&piece)).await {
            permit.forget();
            // After the end nobody listens any more.
            let _ = self.pieces.send(piece);
        }
    }
}

impl Feed {
    /// Writes the pieces to a pipe, which closes at the end.
    pub async fn into_pipe(mut self, mut pipe: PipeWriter) {
        while let Some(piece) = self.next().await {
            if piece.is_empty() || pipe.write_all(piece.clone()).await.is_err() {
                break;
            }
            self.release(&piece);
        }
        drop(pipe);
        self.discard().await;
    }

    /// Writes the pieces to a terminal, which stays open at the end.
    pub async fn into_terminal(mut self, terminal: Arc<Stream>) {
        while let Some(piece) = self.next().await {
            let bytes = if piece.is_empty() { CTRL_D } else { &piece };
            if terminal.write_all(bytes).await.is_err() {
                break;
            }
            self.release(&piece);
        }
        drop(terminal);
        self.discard().await;
    }

    async fn next(&mut self) -> Option<Bytes> {
        self.pieces.recv().await
    }

    fn release(&self, piece: &Bytes) {
        self.budget.add_permits(cost(piece) as usize);
    }

    /// Takes what the process will never read, so that a peer that writes
    /// everything before it reads is not stuck.
    async fn discard(mut self) {
        // A piece taken before this costs room for good, less than all of it.
        self.budget.add_permits(CAPACITY);
        while let Some(piece) = self.next().await {
            self.release(&piece);
        }
    }
}
