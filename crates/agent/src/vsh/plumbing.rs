// SPDX-License-Identifier: Apache-2.0
//! The streams of a session's process, and what messages do to it.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use inn_wire::vsh::{GuestMessage, StdioStream, guest_message::Msg};
use nix::sys::signal::Signal;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::channel::ReceiveError;
use super::launch::{Ends, Launched};
use super::stdin::{self, Queue};
use crate::process::output::{Output, Source};
use crate::process::pipe::{PipeReader, PipeWriter};
use crate::process::pty;
use crate::process::reaper::{Child, Reaper};
use crate::stream::Stream;

/// How often a full input queue asks whether the peer is still there.
const STALL_CHECK: Duration = Duration::from_millis(500);

/// The streams of a session and who uses which.
pub struct Plumbing {
    /// What the process writes.
    pub outputs: Outputs,
    /// What messages act on.
    pub controls: Controls,
    /// The process.
    pub child: Child,
    /// The task that feeds its stdin.
    pub feeder: AbortOnDrop,
}

/// Where the process writes.
pub enum Outputs {
    /// One terminal for all.
    Terminal(Output),
    /// Two pipes.
    Pipes {
        /// Its stdout.
        stdout: Output,
        /// Its stderr.
        stderr: Output,
    },
}

/// A task that ends with its owner.
pub struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Plumbing {
    /// Makes the streams of a started process, and feeds its stdin from now on.
    pub fn new(launched: Launched, reaper: Reaper) -> io::Result<Self> {
        let Launched { child, ends, .. } = launched;
        let (queue, feed) = stdin::queue();
        let (outputs, terminal, feeder) = match ends {
            Ends::Terminal(master) => {
                let master = Arc::new(Stream::new(master)?);
                let feeder = tokio::spawn(feed.into_terminal(Arc::clone(&master)));
                let source = Source::terminal(Arc::clone(&master));
                let output = Output::new(child.clone(), source);
                (Outputs::Terminal(output), Some(master), feeder)
            }
            Ends::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                let feeder = tokio::spawn(feed.into_pipe(PipeWriter::new(stdin)?));
                let output = |fd| -> io::Result<Output> {
                    let source = Source::Pipe(PipeReader::new(fd)?);
                    Ok(Output::new(child.clone(), source))
                };
                let outputs = Outputs::Pipes {
                    stdout: output(stdout)?,
                    stderr: output(stderr)?,
                };
                (outputs, None, feeder)
            }
        };
        let controls = Controls {
            queue,
            terminal,
            pid: child.pid,
            reaper,
        };
        Ok(Self {
            outputs,
            controls,
            child,
            feeder: AbortOnDrop(feeder),
        })
    }
}

/// What messages act on.
pub struct Controls {
    queue: Queue,
    terminal: Option<Arc<Stream>>,
    pid: nix::unistd::Pid,
    reaper: Reaper,
}

impl Controls {
    /// Does what a message says.
    pub async fn apply(&self, message: GuestMessage, stream: &Stream) -> Result<(), ReceiveError> {
        match message.msg {
            Some(Msg::DataMessage(data)) if data.stream() == StdioStream::StdinStream => {
                self.input(data.data, stream).await?;
            }
            Some(Msg::ResizeMessage(size)) => {
                if let Some(terminal) = &self.terminal {
                    let _ = pty::resize(terminal, size.rows, size.cols);
                }
            }
            Some(Msg::Signal(number)) => self.signal(number),
            // Messages from a newer peer, or without meaning in this direction.
            Some(Msg::DataMessage(_) | Msg::StatusMessage(_)) | None => {}
        }
        Ok(())
    }

    /// Ends the input, as a message without bytes does.
    pub async fn end_input(&self) {
        self.queue.push(bytes::Bytes::new()).await;
    }

    /// Takes over the window of whoever attaches. A program that draws the
    /// screen draws it again, even if the size is the same.
    pub fn show_window(&self, rows: i32, cols: i32) {
        if let Some(terminal) = &self.terminal {
            if rows > 0 && cols > 0 {
                let _ = pty::resize(terminal, rows, cols);
            }
            let _ = pty::signal_foreground(terminal, Signal::SIGWINCH);
        }
    }

    /// Queues input. While the queue is full the connection is not read, so
    /// that the peer's leaving has to be noticed otherwise.
    async fn input(&self, data: bytes::Bytes, stream: &Stream) -> Result<(), ReceiveError> {
        let mut push = pin!(self.queue.push(data));
        while timeout(STALL_CHECK, &mut push).await.is_err() {
            if stream.peer_finished() {
                return Err(ReceiveError::Closed);
            }
        }
        Ok(())
    }

    fn signal(&self, number: i32) {
        // Upstream names four; every number the kernel knows is as good.
        let Ok(signal) = Signal::try_from(number) else {
            return;
        };
        let foreground = match &self.terminal {
            Some(terminal) => pty::signal_foreground(terminal, signal).is_ok(),
            None => false,
        };
        if !foreground {
            self.reaper.signal_group(self.pid, signal);
        }
    }
}
