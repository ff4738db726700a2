// SPDX-License-Identifier: Apache-2.0
//! Reading what a process writes, and knowing when that is over.
//!
//! End of file is no reliable end: `sh -c 'sleep 100 &'` leaves a process that
//! holds the pipe. After the exit, what the process itself wrote is all in the
//! kernel, so that much is read without a limit in time; what grandchildren
//! write is read until they pause.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::reaper::Child;
use crate::stream::Stream;

/// Silence after the exit that ends the output. Also covers a terminal's line
/// discipline, which hands data on from a work queue, shortly after the write.
const GRACE: Duration = Duration::from_millis(100);

/// How long grandchildren that never pause are listened to after the exit.
const TALKATIVE_LIMIT: Duration = Duration::from_secs(1);

/// The output of one process through one descriptor.
pub struct Output {
    child: Child,
    after_exit: Option<AfterExit>,
}

struct AfterExit {
    /// Bytes that were in the kernel at the exit and are still unread.
    owed: usize,
    limit: Instant,
}

impl Output {
    /// Output of `child`.
    pub fn new(child: Child) -> Self {
        Self {
            child,
            after_exit: None,
        }
    }

    /// The next bytes; 0 when there will be no more. `source` must be the same
    /// each time.
    pub async fn read(&mut self, source: &Stream, buffer: &mut [u8]) -> io::Result<usize> {
        let result = match self.after_exit {
            Some(_) => self.read_rest(source, buffer).await,
            None => tokio::select! {
                biased;
                result = source.read_some(buffer) => result,
                _ = self.child.exited() => {
                    let limit = Instant::now() + TALKATIVE_LIMIT;
                    self.after_exit = Some(AfterExit { owed: source.pending(), limit });
                    self.read_rest(source, buffer).await
                }
            },
        };
        match result {
            // A terminal's way to say that nobody has its other side open.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            result => result,
        }
    }

    async fn read_rest(&mut self, source: &Stream, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(rest) = &mut self.after_exit else {
            return Ok(0);
        };
        if rest.owed == 0 && Instant::now() >= rest.limit {
            return Ok(0);
        }
        let result = if rest.owed == 0 {
            match timeout_at(rest.limit, timeout(GRACE, source.read_some(buffer))).await {
                Ok(Ok(result)) => result,
                _ => Ok(0),
            }
        } else {
            match timeout(GRACE, source.read_some(buffer)).await {
                Ok(result) => result,
                // Somebody else read what was there.
                Err(_) => Ok(0),
            }
        };
        if let Ok(count) = result {
            rest.owed = rest.owed.saturating_sub(count);
        }
        result
    }
}
