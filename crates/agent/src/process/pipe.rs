// SPDX-License-Identifier: Apache-2.0
//! Our ends of the pipes to a program.
//!
//! The program may splice(2): then the kernel holds the pipe's lock for as long
//! as the splice waits for its other file, which can be for ever. read(2),
//! write(2), close(2) and even FIONREAD of our end wait for that lock, and
//! `O_NONBLOCK` is no help: it is about bytes, not about the lock. Only poll(2)
//! does not take it. So readiness is waited for here, and everything else is
//! done on threads that may block, one call at a time for each end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use inn_wire::frame::DATA_LIMIT;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{read, write};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::stream::{poll_now, register};

/// Bytes read at once: a whole number of full messages.
pub const BUFFER_SIZE: usize = 8 * DATA_LIMIT;

/// What poll(2) is asked for: of one end, only one of them can come true.
const EVENTS: i16 = libc::POLLIN | libc::POLLOUT;

/// One end of a pipe. The descriptor is shared with the call that is under way.
struct End {
    fd: Option<AsyncFd<Arc<OwnedFd>>>,
    /// Nobody has the other end any more, so nobody holds the lock for long.
    is_alone: bool,
}

impl End {
    fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self {
            fd: Some(register(Arc::new(fd), interest)?),
            is_alone: false,
        })
    }

    fn fd(&self) -> io::Result<&AsyncFd<Arc<OwnedFd>>> {
        // It is there until the end is dropped.
        self.fd.as_ref().ok_or_else(|| Errno::EBADF.into())
    }

    /// Waits until something can be done, or the other end is gone.
    async fn ready(&mut self, interest: Interest) -> io::Result<()> {
        loop {
            let mut guard = self.fd()?.ready(interest).await?;
            let found = poll_now(guard.get_inner(), EVENTS);
            if found == 0 {
                guard.clear_ready();
                continue;
            }
            self.is_alone = found & (libc::POLLHUP | libc::POLLERR) != 0;
            return Ok(());
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let Some(fd) = self.fd.take().map(AsyncFd::into_inner) else {
            return;
        };
        if !self.is_alone {
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn_blocking(move || drop(fd));
            }
        }
    }
}

/// What a call brought, and the buffer it is in.
type Brought = (nix::Result<usize>, Vec<u8>);

/// The end that reads what a program writes.
pub struct PipeReader {
    end: End,
    /// Away while a call is under way.
    buffer: Vec<u8>,
    call: Option<JoinHandle<Brought>>,
}

impl PipeReader {
    /// Takes the reading end of a pipe over.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            end: End::new(fd, Interest::READABLE)?,
            buffer: Vec::new(),
            call: None,
        })
    }

    /// Reads what is there, at least one byte, for [`Self::bytes`]; returns how
    /// many, 0 at the end. Nothing is lost when the wait is given up: the next
    /// one returns what this one would have.
    pub async fn fill(&mut self) -> io::Result<usize> {
        loop {
            if self.call.is_none() {
                self.end.ready(Interest::READABLE).await?;
            }
            let (result, buffer) = match &mut self.call {
                Some(call) => {
                    let brought = call.await;
                    self.call = None;
                    brought.map_err(io::Error::other)?
                }
                None => match self.begin()? {
                    Some(brought) => brought,
                    None => continue,
                },
            };
            self.buffer = buffer;
            match result {
                Ok(count) => return Ok(count),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// What the last [`Self::fill`] brought.
    pub fn bytes(&self, count: usize) -> &[u8] {
        self.buffer.get(..count).unwrap_or_default()
    }

    /// Whether bytes, or the end, are there or on their way.
    pub fn is_ready(&self) -> bool {
        let fd = self.end.fd().ok();
        self.call.is_some() || fd.is_some_and(|fd| poll_now(fd.get_ref(), EVENTS) != 0)
    }

    /// Reads on another thread, or here where that takes no time.
    fn begin(&mut self) -> io::Result<Option<Brought>> {
        let fd = Arc::clone(self.end.fd()?.get_ref());
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = move || {
            buffer.resize(BUFFER_SIZE, 0);
            (read(&fd, &mut buffer), buffer)
        };
        if self.end.is_alone {
            return Ok(Some(read()));
        }
        self.call = Some(spawn_blocking(read));
        Ok(None)
    }
}

/// The end that writes what a program reads.
pub struct PipeWriter {
    end: End,
}

impl PipeWriter {
    /// Takes the writing end of a pipe over.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let end = End::new(fd, Interest::WRITABLE)?;
        Ok(Self { end })
    }

    /// Writes everything.
    pub async fn write_all(&mut self, mut bytes: Bytes) -> io::Result<()> {
        while !bytes.is_empty() {
            self.end.ready(Interest::WRITABLE).await?;
            if self.end.is_alone {
                return Err(Errno::EPIPE.into());
            }
            let (fd, piece) = (Arc::clone(self.end.fd()?.get_ref()), bytes.clone());
            let call = spawn_blocking(move || write(&fd, &piece));
            match call.await.map_err(io::Error::other)? {
                Ok(count) => drop(bytes.split_to(count)),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
