// SPDX-License-Identifier: Apache-2.0
//! The host's ends: listening sockets, `CONNECT` handshakes, dialling services.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, SocketFlags};

use crate::hybrid::{self, Line, MAX_LINE};
use crate::muxer::Muxer;
use crate::packet::{CID_HOST, Key};
use crate::poller::Token;
use crate::services::{Dialled, Target};

/// How long a client may take for its `CONNECT` line.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a listener rests when the process is out of descriptors.
const LISTENER_REST: Duration = Duration::from_millis(100);
/// A service whose backlog is full is dialled again this often, this long.
/// Linux guests give up after 2 s (`VSOCK_DEFAULT_CONNECT_TIMEOUT`).
const REDIAL_EVERY: Duration = Duration::from_millis(5);
const REDIAL_FOR: Duration = Duration::from_secs(2);
/// Clients taken from one listener before others get their turn.
const ACCEPT_BATCH: usize = 64;

/// Who a listener's clients are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clients {
    /// Host programs; each names a guest port.
    Any,
    /// Host programs, all for this guest port.
    Of(u32),
    /// The device of the guest with this CID.
    Peer(u64),
}

/// A listening socket and where its clients go.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    pub(crate) clients: Clients,
    resting_until: Option<Instant>,
}

/// A client that has not sent its whole line yet.
#[derive(Debug)]
pub(crate) struct Handshake {
    socket: OwnedFd,
    /// CID of the guest whose device it is; `None` for a host program.
    peer: Option<u64>,
    received: [u8; MAX_LINE],
    filled: usize,
    deadline: Option<Instant>,
}

impl Muxer {
    /// Serves a listening socket from now on.
    pub(crate) fn add_listener(&mut self, socket: OwnedFd, clients: Clients) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let id = self.new_id();
        self.poller.add_level(&socket, Token::Listener(id))?;
        self.listeners.insert(
            id,
            Listener {
                socket,
                clients,
                resting_until: None,
            },
        );
        Ok(())
    }

    /// Takes clients from a listener.
    pub(crate) fn on_client(&mut self, id: u64) {
        for _ in 0..ACCEPT_BATCH {
            let Some(listener) = self.listeners.get_mut(&id) else {
                return;
            };
            let clients = listener.clients;
            match rustix::net::accept_with(
                &listener.socket,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            ) {
                Ok(socket) => match clients {
                    Clients::Of(port) => self.open(socket, port, &[], false),
                    Clients::Any => self.greet(socket, None),
                    Clients::Peer(cid) => self.greet(socket, Some(cid)),
                },
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::WOULDBLOCK) => return,
                // Out of descriptors or memory: the client stays in the
                // backlog, and asking again at once would spin.
                Err(_) => {
                    self.poller.remove(&listener.socket);
                    self.timers.set(
                        &mut listener.resting_until,
                        Token::Listener(id),
                        Some(LISTENER_REST),
                    );
                    return;
                }
            }
        }
    }

    pub(crate) fn resume_listener(&mut self, id: u64) {
        let Some(listener) = self.listeners.get_mut(&id) else {
            return;
        };
        listener.resting_until = None;
        if self
            .poller
            .add_level(&listener.socket, Token::Listener(id))
            .is_err()
        {
            self.timers.set(
                &mut listener.resting_until,
                Token::Listener(id),
                Some(LISTENER_REST),
            );
        }
    }

    fn greet(&mut self, socket: OwnedFd, peer: Option<u64>) {
        let id = self.new_id();
        let full = self.handshakes.len() >= self.config.max_connections;
        if full
            || self
                .poller
                .add_level(&socket, Token::Handshake(id))
                .is_err()
        {
            return self.counters.refused.increment();
        }
        let mut handshake = Handshake {
            socket,
            peer,
            received: [0; MAX_LINE],
            filled: 0,
            deadline: None,
        };
        self.timers.set(
            &mut handshake.deadline,
            Token::Handshake(id),
            Some(HANDSHAKE_TIMEOUT),
        );
        self.handshakes.insert(id, handshake);
        // The line is there already, most of the time.
        self.on_handshake(id);
    }

    /// Reads on in a client's `CONNECT` line.
    pub(crate) fn on_handshake(&mut self, id: u64) {
        let Some(handshake) = self.handshakes.get_mut(&id) else {
            return;
        };
        let room = &mut handshake.received[handshake.filled..];
        match rustix::io::read(&handshake.socket, room) {
            Ok(0) => return self.drop_handshake(id),
            Ok(count) => handshake.filled += count,
            Err(Errno::WOULDBLOCK | Errno::INTR) => return,
            Err(_) => return self.drop_handshake(id),
        }
        let received = &handshake.received[..handshake.filled];
        let line = match handshake.peer {
            None => hybrid::parse(received),
            Some(_) => hybrid::parse_link(received),
        };
        match line {
            Line::Incomplete => {}
            Line::Ok { .. } | Line::Malformed => self.drop_handshake(id),
            line => self.finish_handshake(id, &line),
        }
    }

    fn finish_handshake(&mut self, id: u64, line: &Line) {
        let Some(mut handshake) = self.handshakes.remove(&id) else {
            return;
        };
        self.timers
            .set(&mut handshake.deadline, Token::Handshake(id), None);
        self.poller.remove(&handshake.socket);
        let Handshake {
            socket,
            peer,
            received,
            filled,
            ..
        } = handshake;
        match (peer, *line) {
            (None, Line::Connect { port, consumed }) => {
                self.open(socket, port, &received[consumed..filled], true);
            }
            (
                Some(cid),
                Line::Link {
                    port,
                    from_port,
                    consumed,
                },
            ) => {
                let key = Key {
                    far_cid: cid,
                    far_port: from_port,
                    guest_port: port,
                };
                self.open_from_peer(socket, key, &received[consumed..filled]);
            }
            _ => {}
        }
    }

    fn drop_handshake(&mut self, id: u64) {
        if let Some(mut handshake) = self.handshakes.remove(&id) {
            self.timers
                .set(&mut handshake.deadline, Token::Handshake(id), None);
            self.counters.refused.increment();
        }
    }

    pub(crate) fn on_handshake_deadline(&mut self, id: u64) {
        self.drop_handshake(id);
    }

    /// Connects to what is behind a host port, or to another guest's device.
    pub(crate) fn dial(&mut self, key: Key) -> io::Result<(OwnedFd, Dialled)> {
        let target = self.target(key)?;
        let socket = target.socket()?;
        let wait = self.peers.pace(key);
        let dialled = if wait.is_zero() {
            target.connect(&socket)?
        } else {
            Dialled::Later(wait)
        };
        Ok((socket, dialled))
    }

    fn target(&self, key: Key) -> io::Result<Target> {
        if key.far_cid != CID_HOST {
            let path = self.peers.path(key.far_cid).ok_or(Errno::CONNREFUSED)?;
            return Ok(Target::Unix(SocketAddrUnix::new(path)?));
        }
        if let Some(target) = self.peers.service(key.far_port) {
            return Ok(target.clone());
        }
        let path = hybrid::service_path(&self.config.hybrid_path, key.far_port);
        Ok(Target::Unix(SocketAddrUnix::new(path)?))
    }

    /// Goes back to before the other side was dialled, and does it again later.
    pub(crate) fn dial_anew(&mut self, id: u64) -> io::Result<()> {
        let Some(stream) = self.streams.get(&id) else {
            return Ok(());
        };
        let socket = self.target(stream.connection.key())?.socket()?;
        if let Some(stream) = self.streams.get_mut(&id) {
            // The old one closes, and epoll forgets it.
            stream.socket = socket;
            stream.link_answer = None;
            stream.dial_until = None;
        }
        self.redial_later(id);
        Ok(())
    }

    pub(crate) fn redial_later(&mut self, id: u64) {
        self.dial_after(id, REDIAL_EVERY);
    }

    pub(crate) fn dial_after(&mut self, id: u64, wait: Duration) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream
            .dial_until
            .get_or_insert_with(|| Instant::now() + REDIAL_FOR);
        self.timers
            .set(&mut stream.deadline, Token::Stream(id), Some(wait));
    }

    pub(crate) fn redial(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let expired = stream
            .dial_until
            .is_none_or(|until| until <= Instant::now());
        let key = stream.connection.key();
        let dialled = self.target(key).and_then(|target| {
            let stream = self.streams.get(&id).ok_or(Errno::CONNREFUSED)?;
            target.connect(&stream.socket)
        });
        match dialled {
            Ok(Dialled::Full) if expired => self.refuse(id),
            Ok(dialled) => self.after_dial(id, dialled),
            Err(_) => self.refuse(id),
        }
    }
}
