// SPDX-License-Identifier: Apache-2.0
//! Who connects, and as whom.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use inn_rings::Domain;
use rustix::net::SocketFlags;

use crate::board::{Board, Seat};
use crate::connection::{Client, Role};
use crate::token::Token;

/// How long a listener rests when the process is out of descriptors.
const LISTENER_REST: Duration = Duration::from_millis(100);
/// Clients taken from one listener before others get their turn.
const ACCEPT_BATCH: usize = 64;
/// Who a listener's clients are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clients {
    /// Programs of the guest.
    Guest,
    /// Programs of the host.
    Host,
    /// The keeper of this guest.
    Peer(u16),
}

/// A listening socket and whom it brings.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    clients: Clients,
    resting_until: Option<Instant>,
}

impl Board {
    /// Serves a listening socket from now on.
    pub(crate) fn add_listener(&mut self, socket: OwnedFd, clients: Clients) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let id = self.new_id();
        self.poller.add_level(&socket, Token::Listener(id))?;
        let listener = Listener {
            socket,
            clients,
            resting_until: None,
        };
        self.listeners.insert(id, listener);
        Ok(())
    }

    /// Closes the listeners for guests that are no peers any more.
    pub(crate) fn drop_listeners(&mut self) {
        let table = &self.table;
        self.listeners.retain(|_, one| match one.clients {
            Clients::Peer(id) => table.peer(id).is_some(),
            Clients::Guest | Clients::Host => true,
        });
    }

    /// Takes clients from a listener.
    pub(crate) fn on_client(&mut self, id: u64) {
        use rustix::io::Errno as E;
        for _ in 0..ACCEPT_BATCH {
            let Some(listener) = self.listeners.get_mut(&id) else {
                return;
            };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&listener.socket, flags) {
                Ok(socket) => {
                    let clients = listener.clients;
                    self.admit(socket, clients);
                }
                Err(E::INTR | E::CONNABORTED) => {}
                Err(E::WOULDBLOCK) => return,
                // Out of descriptors or memory: the client stays in the
                // backlog, and asking again at once would spin.
                Err(_) => {
                    self.poller.remove(&listener.socket);
                    let slot = &mut listener.resting_until;
                    let rest = Some(LISTENER_REST);
                    return self.timers.set(slot, Token::Listener(id), rest);
                }
            }
        }
    }

    /// A listener has rested.
    pub(crate) fn resume_listener(&mut self, id: u64) {
        let Some(listener) = self.listeners.get_mut(&id) else {
            return;
        };
        listener.resting_until = None;
        let token = Token::Listener(id);
        if self.poller.add_level(&listener.socket, token).is_err() {
            let slot = &mut listener.resting_until;
            self.timers.set(slot, token, Some(LISTENER_REST));
        }
    }

    /// Somebody connected.
    pub(crate) fn admit(&mut self, socket: OwnedFd, clients: Clients) {
        match clients {
            Clients::Guest => self.seat(socket, self.guest),
            Clients::Host => self.seat(socket, self.host),
            Clients::Peer(peer) => self.seat_peer(socket, peer),
        }
    }

    fn seat(&mut self, socket: OwnedFd, domain: Domain) {
        // A domain with too many endpoints is told so by the closed socket.
        let Ok(endpoint) = self.mediator.open_endpoint(domain) else {
            return;
        };
        let role = Role::Client(Client::new(endpoint));
        match self.add(socket, role) {
            Some(id) => drop(self.seats.insert(endpoint, Seat::Client(id))),
            None => self.mediator.close_endpoint(endpoint),
        }
    }
}
