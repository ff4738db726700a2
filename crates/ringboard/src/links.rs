// SPDX-License-Identifier: Apache-2.0
//! The way to the rings of another guest: one connection to its keeper's board,
//! for all programs of ours.

use std::os::fd::{AsFd, OwnedFd};

use inn_rings::Errno;
use inn_rings::abi::{RingData, flags};
use inn_ringwire::{Answer, Frame, Notice, Request, Sendv, VERSION, What, encode_notice, kind};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::board::{Board, Far, Gather, number};
use crate::connection::{Asked, LINK_FULL, Outgoing, Pending, Role};
use crate::serve::{MAX_REQUESTS, Stop};
use crate::token::Token;

/// A link as its client speaks on it.
const NOBODY: u64 = 0;

impl Board {
    /// The link to a peer, dialled where there is none. Unix sockets connect at
    /// once or not at all, so this finds out whether the peer lives.
    pub(crate) fn link_to(&mut self, peer: u16) -> Result<u64, Errno> {
        if let Some(link) = self.fars.get(&peer).and_then(|far| far.outgoing) {
            return Ok(link);
        }
        let row = self.table.peer(peer).ok_or(Errno::Esrch)?;
        let socket = dial(&row.path).map_err(|_| Errno::Esrch)?;
        // What came from an earlier life of it is not mixed with this one.
        if self.incoming_is_dead(peer) {
            self.end_life(peer);
        }
        let link = self
            .add(socket, Role::Outgoing(Outgoing::new(peer)))
            .ok_or(Errno::Esrch)?;
        if self
            .far(peer)
            .map(|far| far.outgoing = Some(link))
            .is_none()
        {
            self.hang_up(link);
            return Err(Errno::Esrch);
        }
        self.on_outgoing(link, |link, output| {
            let tag = link.ask(NOBODY, Asked::Hello);
            Request::Hello(VERSION).encode(output, tag);
        });
        Ok(link)
    }

    /// What is known of a peer that lives, with a domain for it.
    pub(crate) fn far(&mut self, peer: u16) -> Option<&mut Far> {
        if !self.fars.contains_key(&peer) {
            let domain = self.mediator.create_domain(peer, true).ok()?;
            let far = Far {
                domain,
                incoming: None,
                outgoing: None,
            };
            self.fars.insert(peer, far);
        }
        self.fars.get_mut(&peer)
    }

    /// The peer is gone: its domain here, and both links.
    pub(crate) fn end_life(&mut self, peer: u16) {
        let Some(far) = self.fars.remove(&peer) else {
            return;
        };
        self.mediator.destroy_domain(far.domain);
        self.deliver();
        for link in [far.incoming, far.outgoing].into_iter().flatten() {
            self.hang_up(link);
        }
    }

    fn incoming_is_dead(&self, peer: u16) -> bool {
        let incoming = self.fars.get(&peer).and_then(|far| far.incoming);
        incoming.is_some_and(|id| self.is_hung_up(id))
    }

    /// Whether the other end has closed, though we may not have read so far.
    pub(crate) fn is_hung_up(&self, id: u64) -> bool {
        let Some(connection) = self.connections.get(&id) else {
            return true;
        };
        let mut polled = [PollFd::new(&connection.socket, PollFlags::empty())];
        let at_once = Timespec::default();
        let found = rustix::event::poll(&mut polled, Some(&at_once));
        found.is_ok_and(|count| count > 0)
    }

    fn on_outgoing<T>(
        &mut self,
        link: u64,
        with: impl FnOnce(&mut Outgoing, &mut Vec<u8>) -> T,
    ) -> Option<T> {
        let connection = self.connections.get_mut(&link)?;
        let (role, output) = connection.role_and_output();
        let Role::Outgoing(outgoing) = role else {
            return None;
        };
        let result = with(outgoing, output);
        self.touch(link);
        Some(result)
    }

    /// Whether a client may ask one thing more on a link.
    pub(crate) fn has_room(&mut self, link: u64, client: u64) -> Result<(), Stop> {
        if let Some(connection) = self.connections.get_mut(&link) {
            if connection.unsent() >= LINK_FULL {
                connection.flush();
            }
            if connection.unsent() >= LINK_FULL {
                return Err(Stop::Blocked);
            }
        }
        match self.connections.get(&client).map(|one| &one.role) {
            Some(Role::Client(one)) if one.in_flight >= MAX_REQUESTS => Err(Stop::Blocked),
            _ => Ok(()),
        }
    }

    /// Sends a message on to where its ring is.
    pub(crate) fn forward_send(
        &mut self,
        link: u64,
        client: u64,
        tag: u32,
        call: &Sendv<'_>,
    ) -> Result<(), Stop> {
        self.has_room(link, client)?;
        let asked = Asked::Send(tag, call.destination.port);
        self.on_outgoing(link, |link, output| {
            link.users.insert(client);
            let tag = link.ask(client, asked);
            call.forward(output, tag, number(client));
        });
        self.count_in_flight(client, 1);
        Ok(())
    }

    /// Asks other keepers, and answers the client when all have answered.
    pub(crate) fn forward_queries(
        &mut self,
        client: u64,
        tag: u32,
        entries: Vec<RingData>,
        asked: Vec<(u64, Vec<usize>)>,
    ) {
        let asked: Vec<_> = asked
            .into_iter()
            .filter(|(_, places)| !places.is_empty())
            .collect();
        if asked.is_empty() {
            return self.answer_entries(client, tag, 0, &entries);
        }
        let gather_id = self.new_id();
        self.count_in_flight(client, asked.len());
        for (link, places) in &asked {
            let questions: Vec<_> = places
                .iter()
                .filter_map(|place| entries.get(*place).copied())
                .collect();
            let asked = Asked::Query(gather_id, places.clone());
            self.on_outgoing(*link, |link, output| {
                link.users.insert(client);
                let tag = link.ask(client, asked);
                Request::encode_notify_for(output, tag, number(client), &questions);
            });
        }
        let gather = Gather {
            client,
            tag,
            entries,
            left: asked.len(),
        };
        self.gathers.insert(gather_id, gather);
    }

    fn count_in_flight(&mut self, client: u64, more: usize) {
        if let Some(Role::Client(one)) = self.role_mut(client) {
            one.in_flight += more;
        }
    }

    pub(crate) fn role_mut(&mut self, id: u64) -> Option<&mut Role> {
        self.connections.get_mut(&id).map(|one| &mut one.role)
    }

    /// The other keeper says something.
    pub(crate) fn on_link(&mut self, id: u64, frame: &Frame<'_>) -> Result<(), Stop> {
        self.links_moved = true;
        if frame.kind == kind::EVENT_FOR {
            return self.on_far_event(id, frame);
        }
        let answer = Answer::decode(frame)?;
        let Some(connection) = self.connections.get_mut(&id) else {
            return Err(Stop::Hungry);
        };
        let slot = &mut connection.deadline;
        self.timers.set(slot, Token::Connection(id), None);
        let Role::Outgoing(link) = &mut connection.role else {
            return Err(Stop::Broken);
        };
        let pending = link.pending.pop_front().ok_or(Stop::Broken)?;
        if pending.tag != frame.tag {
            return Err(Stop::Broken);
        }
        let client = pending.client;
        let found = match &pending.what {
            Asked::Hello if answer.result < 0 => return Err(Stop::Broken),
            Asked::Hello => return Ok(()),
            Asked::Send(_, port) if answer.result == -Errno::Eagain.number() => vec![*port],
            Asked::Send(..) => vec![],
            Asked::Query(..) => answer
                .entries()
                .filter(waits)
                .map(|one| one.ring.port)
                .collect(),
        };
        if link.users.contains(&client) {
            link.waits
                .extend(found.into_iter().map(|port| (client, port)));
        }
        let entries: Vec<_> = answer.entries().collect();
        self.finish(pending, answer.result, &entries);
        Ok(())
    }

    /// Passes an answer on to the client that asked.
    fn finish(&mut self, pending: Pending, result: i32, answered: &[RingData]) {
        let client = pending.client;
        if let Some(Role::Client(one)) = self.role_mut(client) {
            one.in_flight = one.in_flight.saturating_sub(1);
        }
        match pending.what {
            Asked::Hello => {}
            Asked::Send(tag, _) => self.answer_with(client, tag, result, &[]),
            Asked::Query(gather_id, places) => {
                let Some(gather) = self.gathers.get_mut(&gather_id) else {
                    return;
                };
                for (place, answer) in places.into_iter().zip(answered) {
                    if let Some(entry) = gather.entries.get_mut(place) {
                        entry.flags = answer.flags;
                        entry.max_message_size = answer.max_message_size;
                    }
                }
                gather.left = gather.left.saturating_sub(1);
                if gather.left > 0 {
                    return;
                }
                if let Some(done) = self.gathers.remove(&gather_id) {
                    self.answer_entries(done.client, done.tag, 0, &done.entries);
                }
            }
        }
    }

    /// Something happened to a ring over there that a client waits for.
    fn on_far_event(&mut self, id: u64, frame: &Frame<'_>) -> Result<(), Stop> {
        let (Some(endpoint), notice) = Notice::decode(frame)? else {
            return Err(Stop::Broken);
        };
        let client = u64::from(endpoint);
        let waited = match self.role_mut(id) {
            Some(Role::Outgoing(link)) if link.peer == notice.owner => {
                link.waits.remove(&(client, notice.port))
            }
            _ => return Err(Stop::Broken),
        };
        if waited && notice.what != What::Arrival {
            self.tell_client(client, &notice);
        }
        Ok(())
    }

    fn tell_client(&mut self, client: u64, notice: &Notice) {
        if let Some(connection) = self.connections.get_mut(&client) {
            encode_notice(connection.output(), None, notice);
            self.touch(client);
        }
    }

    /// A link broke: nobody waits for it for ever.
    pub(crate) fn fail_link(&mut self, link: Outgoing) {
        for pending in link.pending {
            self.finish(pending, -Errno::Esrch.number(), &[]);
        }
        for (client, port) in link.waits {
            self.tell_client(client, &self.closed(link.peer, port));
        }
    }

    /// Those who may no longer wait at a peer stop; which ports that were.
    pub(crate) fn expel_waits(&mut self, allowed: impl Fn(u16, u32) -> bool) -> Vec<(u16, u32)> {
        let mut expelled = Vec::new();
        for connection in self.connections.values_mut() {
            if let Role::Outgoing(link) = &mut connection.role {
                let peer = link.peer;
                let goes = |one: &(u64, u32)| !allowed(peer, one.1);
                let gone: Vec<_> = link.waits.iter().copied().filter(goes).collect();
                link.waits.retain(|one| allowed(peer, one.1));
                expelled.extend(gone.into_iter().map(|(client, port)| (client, peer, port)));
            }
        }
        for (client, peer, port) in &expelled {
            self.tell_client(*client, &self.closed(*peer, *port));
        }
        expelled
            .into_iter()
            .map(|(_, peer, port)| (peer, port))
            .collect()
    }

    /// The partner is not known here: it is ours, as the other end sees it.
    fn closed(&self, owner: u16, port: u32) -> Notice {
        Notice {
            port,
            partner: self.guest.id(),
            owner,
            what: What::Closed,
        }
    }
}

/// Whether an answered entry says that its asker stands in a line now.
fn waits(entry: &RingData) -> bool {
    let over = flags::SUFFICIENT | flags::EMSGSIZE | flags::EBUSY;
    entry.flags & flags::EXISTS != 0 && entry.flags & over == 0
}

fn dial(path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(socket.as_fd(), &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
