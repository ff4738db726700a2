// SPDX-License-Identifier: Apache-2.0
//! Asynchronous bytes over any descriptor that polls: vsock and Unix sockets,
//! pipes and pseudo-terminals. One type serves them all, because the kernel
//! does too.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::{read, write};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

nix::ioctl_read_bad!(bytes_to_read, libc::FIONREAD, libc::c_int);

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

    /// Bytes waiting to be read.
    pub fn pending(&self) -> usize {
        let mut count = 0;
        // SAFETY: FIONREAD writes one int, which `count` is, and nothing else.
        let result = unsafe { bytes_to_read(self.fd.as_raw_fd(), &raw mut count) };
        result
            .ok()
            .and_then(|_| usize::try_from(count).ok())
            .unwrap_or(0)
    }

    /// Whether the peer has closed or finished, even while bytes it sent are
    /// still unread.
    pub fn peer_finished(&self) -> bool {
        let ends = libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR;
        // Not nix's poll, which cannot report POLLRDHUP.
        let mut fd = libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLRDHUP,
            revents: 0,
        };
        // SAFETY: the pointer and the count are those of one pollfd.
        let count = unsafe { libc::poll(&raw mut fd, 1, 0) };
        count == 1 && fd.revents & ends != 0
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

/// Watches a descriptor for as long as the result lives.
pub fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, and stays the same descriptor of the same
    // file until it is dropped, which the AsyncFd that owns it does last.
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
