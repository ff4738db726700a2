// SPDX-License-Identifier: Apache-2.0
//! Reading what a process writes, and knowing when that is over.
//!
//! End of file is no reliable end: `sh -c 'sleep 100 &'` leaves a process that
//! holds the pipe. After the exit, what the process itself wrote is all in the
//! kernel, so that much is read without a limit in time; what grandchildren
//! write is read until they pause.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::pipe::{BUFFER_SIZE, PipeReader};
use super::reaper::Child;
use crate::stream::Stream;

/// Silence after the exit that ends the output. Also covers a terminal's line
/// discipline, which hands data on from a work queue, shortly after the write.
const GRACE: Duration = Duration::from_millis(100);

/// How long grandchildren that never pause are listened to after the exit.
const TALKATIVE_LIMIT: Duration = Duration::from_secs(1);

/// How long a read after the exit may take, once something is there. It takes
/// long only where a grandchild's splice holds the pipe.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// The most that can be in the kernel at the exit: a pipe's size limit
/// (`fs.pipe-max-size`).
const KERNEL_LIMIT: usize = 1 << 20;

/// Where a process writes.
pub enum Source {
    /// A pipe.
    Pipe(PipeReader),
    /// A terminal, by its master, and the buffer for what comes from it.
    Terminal(Arc<Stream>, Vec<u8>),
}

impl Source {
    /// A terminal, by its master.
    pub fn terminal(master: Arc<Stream>) -> Self {
        Self::Terminal(master, vec![0; BUFFER_SIZE])
    }

    /// As [`PipeReader::fill`].
    async fn fill(&mut self) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.fill().await,
            Self::Terminal(master, buffer) => match master.read_some(buffer).await {
                // A terminal's way to say that nobody has its other side open.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
                result => result,
            },
        }
    }

    fn bytes(&self, count: usize) -> &[u8] {
        match self {
            Self::Pipe(pipe) => pipe.bytes(count),
            Self::Terminal(_, buffer) => buffer.get(..count).unwrap_or_default(),
        }
    }

    fn is_ready(&self) -> bool {
        match self {
            Self::Pipe(pipe) => pipe.is_ready(),
            Self::Terminal(master, _) => master.is_readable(),
        }
    }
}

/// The output of one process through one descriptor.
pub struct Output {
    child: Child,
    source: Source,
    after_exit: Option<AfterExit>,
}

struct AfterExit {
    /// The most that may have been in the kernel at the exit and is unread.
    owed: usize,
    limit: Instant,
}

impl Output {
    /// Output of `child`.
    pub fn new(child: Child, source: Source) -> Self {
        Self {
            child,
            source,
            after_exit: None,
        }
    }

    /// The next bytes; none when there will be no more.
    pub async fn read(&mut self) -> io::Result<&[u8]> {
        let count = self.fill().await?;
        Ok(self.source.bytes(count))
    }

    async fn fill(&mut self) -> io::Result<usize> {
        if self.after_exit.is_none() {
            tokio::select! {
                biased;
                result = self.source.fill() => return result,
                _ = self.child.exited() => {
                    let limit = Instant::now() + TALKATIVE_LIMIT;
                    self.after_exit = Some(AfterExit { owed: KERNEL_LIMIT, limit });
                }
            }
        }
        let Some(rest) = &mut self.after_exit else {
            return Ok(0);
        };
        // What the process wrote is there without a pause.
        let is_ready = self.source.is_ready();
        if !is_ready {
            rest.owed = 0;
        }
        if rest.owed == 0 && Instant::now() >= rest.limit {
            return Ok(0);
        }
        let patience = if is_ready { READ_LIMIT } else { GRACE };
        let count = timeout(patience, self.source.fill())
            .await
            .unwrap_or(Ok(0))?;
        rest.owed = rest.owed.saturating_sub(count);
        Ok(count)
    }
}
