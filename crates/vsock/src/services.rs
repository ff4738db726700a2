// SPDX-License-Identifier: Apache-2.0
//! Services of the host that a table declares: what a guest reaches at a port of CID 2.
//!
//! The device dials a service's own socket, so a port is open for exactly as
//! long as the table says, and nothing lies about on disk. Ports that are no
//! services lead to `<path>_<port>`, and no table is asked.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::error::Error;
use crate::muxer::{ANSWER_TIMEOUT, Muxer};
use crate::poller::{Event, Token};

/// Where a service listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A Unix stream socket.
    Unix(SocketAddrUnix),
    /// A TCP port.
    Tcp(SocketAddr),
}

impl Target {
    /// Reads `unix:/path` or `tcp:ADDRESS:PORT`.
    ///
    /// # Errors
    ///
    /// [`Error::BadTarget`] for anything else.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bad = || Error::BadTarget(text.to_owned());
        match text.split_once(':') {
            Some(("unix", path)) if path.starts_with('/') => {
                SocketAddrUnix::new(path).map(Self::Unix).map_err(|_| bad())
            }
            Some(("tcp", address)) => address.parse().map(Self::Tcp).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }

    /// A socket of the right kind, not connected.
    pub(crate) fn socket(&self) -> io::Result<OwnedFd> {
        let family = match self {
            Self::Unix(_) => AddressFamily::UNIX,
            Self::Tcp(SocketAddr::V4(_)) => AddressFamily::INET,
            Self::Tcp(SocketAddr::V6(_)) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        if family != AddressFamily::UNIX {
            // What a guest wrote is a packet of its own already.
            sockopt::set_tcp_nodelay(&socket, true)?;
        }
        Ok(socket)
    }

    /// Begins to connect.
    pub(crate) fn connect(&self, socket: &OwnedFd) -> io::Result<Dialled> {
        let result = match self {
            Self::Unix(address) => rustix::net::connect(socket, address),
            Self::Tcp(address) => rustix::net::connect(socket, address),
        };
        match result {
            Ok(()) => Ok(Dialled::Connected),
            Err(Errno::INPROGRESS) => Ok(Dialled::Pending),
            Err(Errno::AGAIN) => Ok(Dialled::Full),
            Err(error) => Err(error.into()),
        }
    }
}

/// How far a connection to a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialled {
    /// It is there.
    Connected,
    /// The backlog of a Unix socket is full: try again.
    Full,
    /// TCP's handshake is under way: the socket will be writable.
    Pending,
    /// Not yet (see `pace`).
    Later(Duration),
}

impl Muxer {
    /// Goes on with a stream whose local side was dialled.
    pub(crate) fn after_dial(&mut self, id: u64, dialled: Dialled) {
        match dialled {
            Dialled::Connected => self.on_dialled(id),
            Dialled::Full => self.redial_later(id),
            Dialled::Later(wait) => self.dial_after(id, wait),
            Dialled::Pending => self.await_connect(id),
        }
    }

    fn await_connect(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.connecting = true;
        self.timers.set(
            &mut stream.deadline,
            Token::Stream(id),
            Some(ANSWER_TIMEOUT),
        );
        if self
            .poller
            .add_edge(&stream.socket, Token::Stream(id))
            .is_err()
        {
            self.refuse(id);
        }
    }

    /// TCP's handshake is over, or nobody listens there.
    pub(crate) fn on_connecting(&mut self, id: u64, event: Event) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !event.writable && !event.hung_up {
            return;
        }
        stream.connecting = false;
        self.timers
            .set(&mut stream.deadline, Token::Stream(id), None);
        if !matches!(sockopt::socket_error(&stream.socket), Ok(Ok(()))) || event.hung_up {
            return self.refuse(id);
        }
        stream.connection.local_connected();
        self.count_established(id);
        self.settle(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        assert!(matches!(
            Target::parse("unix:/run/a b:c"),
            Ok(Target::Unix(_))
        ));
        for address in ["127.0.0.1:80", "[::1]:80"] {
            let parsed = Target::parse(&format!("tcp:{address}")).unwrap();
            assert_eq!(parsed, Target::Tcp(address.parse().unwrap()));
        }
        let long = format!("unix:/{}", "x".repeat(108));
        for text in [
            "",
            "unix:",
            "unix:rel",
            "tcp:localhost:80",
            "tcp:1.2.3.4",
            "udp:1.2.3.4:5",
            &long,
        ] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }
}
