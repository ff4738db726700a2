// SPDX-License-Identifier: Apache-2.0
//! Asynchronous bytes over any descriptor that polls: vsock and Unix sockets,
//! pipes and pseudo-terminals. One type serves them all, because the kernel
//! does too.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::{read, write};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// A descriptor in non-blocking mode.
#[derive(Debug)]
pub struct Stream {
    fd: AsyncFd<OwnedFd>,
}

impl Stream {
    /// Takes a descriptor over. The mode belongs to the open file description:
    /// nobody who expects blocking calls may share it.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self {
            fd: register(fd, Interest::READABLE | Interest::WRITABLE)?,
        })
    }

    /// Reads what is there, at least one byte; 0 at the end.
    pub async fn read_some(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fd
            .async_io(Interest::READABLE, |fd| retry(|| read(fd, buffer)))
            .await
    }

    /// Writes what fits, at least one byte.
    pub async fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        self.fd
            .async_io(Interest::WRITABLE, |fd| retry(|| write(fd, bytes)))
            .await
    }

    /// Writes everything.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.write_some(bytes).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Waits until writing is possible; for a socket, until it has connected.
    pub async fn writable(&self) -> io::Result<()> {
        self.fd.writable().await.map(drop)
    }

    /// Tells the peer that no more bytes follow.
    pub fn finish(&self) -> io::Result<()> {
        match shutdown(self.fd.as_raw_fd(), Shutdown::Write) {
            // A peer that is gone needs no goodbye; a pipe has none.
            Ok(()) | Err(Errno::ENOTCONN | Errno::ENOTSOCK) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether bytes, or the end, are there to be read.
    pub fn is_readable(&self) -> bool {
        poll_now(&self.fd, libc::POLLIN) != 0
    }

    /// Whether the peer has closed or finished, even while bytes it sent are
    /// still unread.
    pub fn peer_finished(&self) -> bool {
        poll_now(&self.fd, libc::POLLRDHUP) != 0
    }
}

/// What poll(2) finds now of `events`; `POLLHUP` and `POLLERR` unasked. Nothing
/// is an answer, too.
pub fn poll_now(fd: &impl AsRawFd, events: i16) -> i16 {
    // Not nix's poll, which cannot report POLLRDHUP.
    let mut fd = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: the pointer and the count are those of one pollfd.
    let count = unsafe { libc::poll(&raw mut fd, 1, 0) };
    if count == 1 { fd.revents } else { 0 }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

/// What keeps a descriptor open and the same for as long as it lives.
pub trait Keeping: AsRawFd {}
impl Keeping for OwnedFd {}
impl Keeping for Arc<OwnedFd> {}

/// Watches a descriptor for as long as the result lives.
pub fn register<F: Keeping>(fd: F, interest: Interest) -> io::Result<AsyncFd<F>> {
    // SAFETY: an OwnedFd, also a shared one, is open, and stays the same
    // descriptor of the same file until it is dropped; the AsyncFd lets go of
    // it last.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Calls again what a signal interrupted.
fn retry(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            if let Ok(result) = guard.try_io(|fd| retry(|| read(fd, unfilled))) {
                buffer.advance(result?);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(context))?;
            if let Ok(result) = guard.try_io(|fd| retry(|| write(fd, bytes))) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The kernel's buffer is the only one.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish())
    }
}
