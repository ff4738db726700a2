// SPDX-License-Identifier: Apache-2.0
//! Where connections come from: vsock in a guest, Unix sockets in a folder for
//! tests and for other transports.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, UnixAddr, VsockAddr, accept4, bind,
    connect, getpeername, getsockopt, listen, socket, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::stream::{Stream, register};

/// Connections waiting for accept: as many as the host's device has at a time,
/// since what does not fit is refused for good, however short the rush.
const BACKLOG: i32 = 1024;

/// Pause after accept failed for want of descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How the guest and its host reach each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `AF_VSOCK`; the host is CID 2.
    Vsock,
    /// Sockets named `PORT.sock` in this folder.
    Unix(PathBuf),
}

impl Transport {
    /// Listens on a port.
    pub fn listen(&self, port: u32) -> io::Result<Listener> {
        let fd = match self {
            // Any CID: the guest's own CID is known only once a device is there.
            Self::Vsock => bound(
                AddressFamily::Vsock,
                &VsockAddr::new(libc::VMADDR_CID_ANY, port),
            )?,
            Self::Unix(dir) => {
                let path = socket_path(dir, port);
                // What a previous agent left would make bind fail.
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => bound(AddressFamily::Unix, &UnixAddr::new(&path)?)?,
                }
            }
        };
        let fd = register(fd, Interest::READABLE)?;
        Ok(Listener {
            fd,
            only_host: *self == Self::Vsock,
        })
    }

    /// Connects to a port of the host.
    pub async fn dial(&self, port: u32) -> io::Result<Stream> {
        match self {
            Self::Vsock => {
                dial(
                    AddressFamily::Vsock,
                    &VsockAddr::new(libc::VMADDR_CID_HOST, port),
                )
                .await
            }
            Self::Unix(dir) => {
                dial(
                    AddressFamily::Unix,
                    &UnixAddr::new(&socket_path(dir, port))?,
                )
                .await
            }
        }
    }
}

fn socket_path(dir: &Path, port: u32) -> PathBuf {
    dir.join(format!("{port}.sock"))
}

fn new_socket(family: AddressFamily) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(family, SockType::Stream, flags, None)
}

fn bound(family: AddressFamily, address: &dyn SockaddrLike) -> io::Result<OwnedFd> {
    let fd = new_socket(family)?;
    bind(fd.as_raw_fd(), address)?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    Ok(fd)
}

async fn dial<A: SockaddrLike + Sync>(family: AddressFamily, address: &A) -> io::Result<Stream> {
    let fd = new_socket(family)?;
    let progress = connect(fd.as_raw_fd(), address);
    let stream = Stream::new(fd)?;
    match progress {
        Ok(()) => {}
        Err(Errno::EINPROGRESS) => {
            stream.writable().await?;
            let error = getsockopt(&stream, sockopt::SocketError)?;
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
        }
        Err(errno) => return Err(errno.into()),
    }
    Ok(stream)
}

/// A listening socket.
pub struct Listener {
    fd: AsyncFd<OwnedFd>,
    only_host: bool,
}

impl Listener {
    /// The next connection from somebody who may connect. Errors of single
    /// connections and shortages pass; this ends only when the program does.
    pub async fn accept(&self) -> Stream {
        loop {
            match self.accept_one().await {
                Ok(fd) if self.is_welcome(&fd) => match Stream::new(fd) {
                    Ok(stream) => return stream,
                    Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
                },
                Ok(_) => {}
                Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
            }
        }
    }

    async fn accept_one(&self) -> io::Result<OwnedFd> {
        self.fd
            .async_io(Interest::READABLE, |listener| {
                let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
                // SAFETY: accept4 has just returned this descriptor; nothing
                // else owns it.
                Ok(unsafe { OwnedFd::from_raw_fd(fd) })
            })
            .await
    }

    /// Whether the peer is the host. A program of the guest reaches the same
    /// port through the loopback transport, with another CID; it would become
    /// root by a shell session.
    fn is_welcome(&self, fd: &OwnedFd) -> bool {
        if !self.only_host {
            return true;
        }
        getpeername::<VsockAddr>(fd.as_raw_fd())
            .is_ok_and(|peer| peer.cid() == libc::VMADDR_CID_HOST)
    }
}
