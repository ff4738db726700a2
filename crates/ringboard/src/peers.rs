// SPDX-License-Identifier: Apache-2.0
//! What the keepers of other guests ask in the name of their programs.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use inn_rings::abi::{MAX_ENTRIES, MAX_PIECES};
use inn_rings::{Endpoint, Errno, Event, Operation, Piece, RingName, Verdict};
use inn_ringwire::{Entries, Request, Sendv};
use std::sync::Arc;

use crate::audit::{Decision, Outcome};
use crate::board::{Board, Seat};
use crate::clients::gather;
use crate::connection::Role;
use crate::serve::Stop;
use crate::table::{Rules, Table};

impl Board {
    /// A peer's keeper connected.
    pub(crate) fn seat_peer(&mut self, socket: OwnedFd, peer: u16) {
        if self.table.peer(peer).is_none() {
            return;
        }
        // A second connection is that of a new life; the end of the old one may
        // not have been read yet.
        let (incoming, outgoing) = match self.fars.get(&peer) {
            Some(far) => (far.incoming, far.outgoing),
            None => (None, None),
        };
        if incoming.is_some() || outgoing.is_some_and(|id| self.is_hung_up(id)) {
            self.end_life(peer);
        }
        let role = Role::Incoming {
            peer,
            stand_ins: HashMap::new(),
        };
        let Some(id) = self.add(socket, role) else {
            return;
        };
        match self.far(peer) {
            Some(far) => far.incoming = Some(id),
            None => self.hang_up(id),
        }
    }

    /// Does what a peer's keeper asks.
    pub(crate) fn on_peer(&mut self, id: u64, tag: u32, request: Request<'_>) -> Result<(), Stop> {
        match request {
            Request::For(one) => {
                let endpoint = match self.stand_in(id, one.endpoint) {
                    Ok(endpoint) => endpoint,
                    Err(error) => {
                        self.answer(id, tag, Err(error));
                        return Ok(());
                    }
                };
                match one.request()? {
                    Request::Sendv(call) => self.send_for(id, endpoint, tag, &call),
                    Request::Notify(entries) => self.query_for(id, endpoint, tag, entries),
                    _ => return Err(Stop::Broken),
                }
            }
            Request::Gone(number) => {
                if let Some(Role::Incoming { stand_ins, .. }) = self.role_mut(id) {
                    if let Some(endpoint) = stand_ins.remove(&number) {
                        self.seats.remove(&endpoint);
                        self.mediator.close_endpoint(endpoint);
                    }
                }
            }
            Request::Unknown(_) => self.answer(id, tag, Err(Errno::Eopnotsupp)),
            _ => return Err(Stop::Broken),
        }
        Ok(())
    }

    /// Who stands for a program of the peer.
    fn stand_in(&mut self, id: u64, number: u32) -> Result<Endpoint, Errno> {
        let Some(Role::Incoming { peer, stand_ins }) = self.role_mut(id) else {
            return Err(Errno::Enodev);
        };
        if let Some(known) = stand_ins.get(&number) {
            return Ok(*known);
        }
        let peer = *peer;
        let domain = self.fars.get(&peer).ok_or(Errno::Enodev)?.domain;
        let endpoint = self.mediator.open_endpoint(domain)?;
        self.seats.insert(endpoint, Seat::StandIn(id, number));
        if let Some(Role::Incoming { stand_ins, .. }) = self.role_mut(id) {
            stand_ins.insert(number, endpoint);
        }
        Ok(endpoint)
    }

    fn send_for(&mut self, id: u64, endpoint: Endpoint, tag: u32, call: &Sendv<'_>) {
        let to = call.destination;
        self.note_asked(endpoint, Operation::Send, to.port, call.source.port);
        let mut pieces = [Piece::Bytes(&[]); MAX_PIECES + 1];
        let outgoing = gather(call, &mut pieces);
        let result = if to.domain == self.guest.id() {
            // Whose port it is there, the other keeper knows; another of its
            // programs may have the port next.
            let bound = self.mediator.bind(endpoint, call.source.port);
            let sent = bound.and_then(|()| self.mediator.sendv(endpoint, &outgoing));
            // Fails if it was not bound.
            let _ = self.mediator.unbind(endpoint, call.source.port);
            sent
        } else {
            Err(Errno::Esrch)
        };
        self.answer(id, tag, result);
    }

    fn query_for(&mut self, id: u64, endpoint: Endpoint, tag: u32, entries: Entries<'_>) {
        let mut entries: Vec<_> = entries.iter().take(MAX_ENTRIES).collect();
        for entry in &mut entries {
            entry.flags = 0;
            self.note_asked(endpoint, Operation::Query, entry.ring.port, 0);
            if entry.ring.domain == self.guest.id() {
                // Refusals do not show here, so this does not fail.
                let _ = self.mediator.query(endpoint, entry);
            }
        }
        self.answer_entries(id, tag, 0, &entries);
    }

    fn note_asked(&mut self, endpoint: Endpoint, operation: Operation, port: u32, from_port: u32) {
        let (sender, owner) = (endpoint.domain().id(), self.guest.id());
        let verdict = self.table.judge(operation, sender, Some(owner), port);
        self.audit.note(Decision {
            sender: Some(sender),
            owner,
            operation,
            port,
            from_port,
            outcome: verdict.into(),
        });
    }

    /// Enforces other rules: rings and places in lines that they do not allow
    /// go, and links to guests that are no peers any more.
    pub(crate) fn set_rules(&mut self, rules: Rules) {
        let mac_permissive = rules.mac_permissive;
        let guest = self.guest.id();
        self.table = Arc::new(Table { guest, rules });
        self.audit.forget();
        let before: Vec<_> = self.mediator.rings().map(|ring| ring.name).collect();
        self.mediator.set_policy(self.table.clone());
        self.mediator.set_mac_permissive(mac_permissive);
        let after: Vec<_> = self.mediator.rings().map(|ring| ring.name).collect();
        for ring in before.iter().filter(|ring| !after.contains(ring)) {
            let operation = match ring.partner {
                Some(_) => Operation::RegisterSingle,
                None => Operation::RegisterAny,
            };
            self.note_cut(operation, ring.partner.map(|one| one.id()), *ring);
        }
        let events = self.mediator.take_events();
        for event in &events {
            if let Event::Closed { to, ring } = event {
                if after.contains(ring) {
                    self.note_cut(Operation::Send, Some(to.domain().id()), *ring);
                }
            }
        }
        self.tell(events);
        let table = self.table.clone();
        let allowed = |peer: u16, port: u32| {
            table.judge(Operation::Send, guest, Some(peer), port) == Verdict::Allow
        };
        for (owner, port) in self.expel_waits(allowed) {
            self.audit.note(Decision {
                sender: Some(guest),
                owner,
                operation: Operation::Send,
                port,
                from_port: 0,
                outcome: Outcome::Cut,
            });
        }
        self.drop_listeners();
        let strangers = |peer: &u16| self.table.peer(*peer).is_none();
        let gone: Vec<_> = self.fars.keys().copied().filter(strangers).collect();
        for peer in gone {
            self.end_life(peer);
        }
    }

    fn note_cut(&mut self, operation: Operation, sender: Option<u16>, ring: RingName) {
        self.audit.note(Decision {
            sender,
            owner: ring.owner.id(),
            operation,
            port: ring.port,
            from_port: 0,
            outcome: Outcome::Cut,
        });
    }
}
