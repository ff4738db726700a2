// SPDX-License-Identifier: Apache-2.0
//! What programs of the guest and of the host ask.

use inn_rings::abi::{DOMID_ANY, MAX_ENTRIES, MAX_PIECES, RegisterRing, RingData};
use inn_rings::{Endpoint, Errno, Operation, Outgoing, Piece, RingStatus, Verdict};
use inn_ringwire::{MAX_BODY, MAX_PAYLOAD, Receive, Request, RingRow, Sendv, WAKE};

use crate::audit::Decision;
use crate::board::Board;
use crate::connection::Role;
use crate::serve::{Stop, number};
use crate::table::HOST;

/// The most bytes of messages in an answer, beside its result.
const MAX_MESSAGES: u32 = MAX_BODY - 4;

impl Board {
    /// Does what a program asks.
    pub(crate) fn on_request(
        &mut self,
        id: u64,
        tag: u32,
        request: Request<'_>,
    ) -> Result<(), Stop> {
        let Some(endpoint) = self.endpoint(id) else {
            return Err(Stop::Hungry);
        };
        let result = match request {
            Request::Register(call) => self.register(endpoint, &call),
            Request::Unregister(call) => {
                self.forget_told(id, call.port, call.partner);
                let done = self.mediator.unregister_ring(endpoint, &call);
                done.map(|()| 0)
            }
            Request::Sendv(call) => return self.send(id, endpoint, tag, &call),
            Request::Notify(entries) => {
                let entries: Vec<_> = entries.iter().take(MAX_ENTRIES + 1).collect();
                return self.notify(id, endpoint, tag, entries);
            }
            Request::Receive(call) => {
                self.receive(id, endpoint, tag, &call);
                return Ok(());
            }
            Request::Bind(port) => {
                let bound = match port {
                    0 => self.mediator.bind_any(endpoint),
                    port => self.mediator.bind(endpoint, port).map(|()| port),
                };
                match bound {
                    Ok(port) => self.answer_with(id, tag, 0, &[&port.to_le_bytes()]),
                    Err(error) => self.answer(id, tag, Err(error)),
                }
                return Ok(());
            }
            Request::Unbind(port) => self.mediator.unbind(endpoint, port).map(|()| 0),
            Request::Info => {
                self.info(id, endpoint, tag);
                return Ok(());
            }
            Request::Unknown(_) => Err(Errno::Eopnotsupp),
            // Another keeper's; or said for a second time.
            Request::For(_) | Request::Gone(_) | Request::Hello(_) => return Err(Stop::Broken),
        };
        self.answer(id, tag, result);
        Ok(())
    }

    fn endpoint(&self, id: u64) -> Option<Endpoint> {
        match &self.connections.get(&id)?.role {
            Role::Client(client) => Some(client.endpoint),
            Role::Incoming { .. } | Role::Outgoing(_) => None,
        }
    }

    fn register(&mut self, endpoint: Endpoint, call: &RegisterRing) -> Result<u32, Errno> {
        let me = endpoint.domain().id();
        let (operation, partner) = match call.partner {
            DOMID_ANY => (Operation::RegisterAny, None),
            id => (Operation::RegisterSingle, Some(id)),
        };
        let verdict = self.table.judge(operation, me, partner, call.port);
        if partner != Some(me) {
            self.audit.note(Decision {
                sender: partner,
                owner: me,
                operation,
                port: call.port,
                from_port: 0,
                outcome: verdict.into(),
            });
        }
        // Whoever lives can be found by the link to it.
        if let (Verdict::Allow, Some(id)) = (verdict, partner) {
            if me == self.guest.id() && self.table.peer(id).is_some() {
                let _ = self.link_to(id);
            }
        }
        self.mediator.register_ring(endpoint, call).map(|()| 0)
    }

    fn send(
        &mut self,
        id: u64,
        endpoint: Endpoint,
        tag: u32,
        call: &Sendv<'_>,
    ) -> Result<(), Stop> {
        let mut pieces = [Piece::Bytes(&[]); MAX_PIECES + 1];
        let outgoing = gather(call, &mut pieces);
        let (me, to) = (endpoint.domain().id(), call.destination);
        let verdict = self
            .table
            .judge(Operation::Send, me, Some(to.domain), to.port);
        if me != to.domain {
            self.audit.note(Decision {
                sender: Some(me),
                owner: to.domain,
                operation: Operation::Send,
                port: to.port,
                from_port: call.source.port,
                outcome: verdict.into(),
            });
        }
        let too_long = call.payload() > MAX_PAYLOAD as usize;
        let remote = me == self.guest.id() && self.table.peer(to.domain).is_some();
        if !remote && !too_long {
            let result = self.mediator.sendv(endpoint, &outgoing);
            self.answer(id, tag, result);
            return Ok(());
        }
        let vetted = match (self.mediator.vet_send(endpoint, &outgoing), verdict) {
            (Err(error), _) => Err(error),
            (Ok(_), Verdict::Refuse(how)) => Err(how.errno()),
            (Ok(_), Verdict::Allow) if too_long => Err(Errno::Emsgsize),
            (Ok(_), Verdict::Allow) => self.link_to(to.domain),
        };
        match vetted {
            Ok(link) => self.forward_send(link, id, tag, call),
            Err(error) => {
                self.answer(id, tag, Err(error));
                Ok(())
            }
        }
    }

    fn notify(
        &mut self,
        id: u64,
        endpoint: Endpoint,
        tag: u32,
        mut entries: Vec<RingData>,
    ) -> Result<(), Stop> {
        let me = endpoint.domain().id();
        let table = self.table.clone();
        let is_remote =
            |one: &&RingData| me == table.guest && table.peer(one.ring.domain).is_some();
        let judge = |one: &RingData| {
            table.judge(Operation::Query, me, Some(one.ring.domain), one.ring.port)
        };
        if entries.len() > MAX_ENTRIES || !entries.iter().any(|one| is_remote(&one)) {
            let result = self.mediator.notify(endpoint, &mut entries);
            self.note_queries(me, &entries);
            self.answer_entries(id, tag, number(result.map(|()| 0)), &entries);
            return Ok(());
        }
        // All or nothing: what has been asked cannot be asked again later.
        let mut links: Vec<(u16, u64)> = Vec::new();
        for one in entries.iter().filter(is_remote) {
            let peer = one.ring.domain;
            let known = links.iter().any(|(known, _)| *known == peer);
            if judge(one) == Verdict::Allow && !known {
                if let Ok(link) = self.link_to(peer) {
                    links.push((peer, link));
                }
            }
        }
        for (_, link) in &links {
            self.has_room(*link, id)?;
        }
        self.note_queries(me, &entries);
        if let Err(error) = self.mediator.wake(endpoint) {
            self.answer(id, tag, Err(error));
            return Ok(());
        }
        let mut asked: Vec<(u64, Vec<usize>)> =
            links.iter().map(|(_, link)| (*link, Vec::new())).collect();
        for (place, one) in entries.iter_mut().enumerate() {
            one.flags = 0;
            if !is_remote(&&*one) {
                // Refusals do not show here, so this does not fail.
                let _ = self.mediator.query(endpoint, one);
                continue;
            }
            let link = links.iter().position(|(peer, _)| *peer == one.ring.domain);
            if let (Verdict::Allow, Some(link)) = (judge(one), link) {
                if let Some((_, places)) = asked.get_mut(link) {
                    places.push(place);
                }
            }
        }
        self.forward_queries(id, tag, entries, asked);
        Ok(())
    }

    fn note_queries(&mut self, me: u16, entries: &[RingData]) {
        for one in entries.iter().filter(|one| one.ring.domain != me) {
            let (peer, port) = (one.ring.domain, one.ring.port);
            let operation = Operation::Query;
            let verdict = self.table.judge(operation, me, Some(peer), port);
            self.audit.note(Decision {
                sender: Some(me),
                owner: peer,
                operation,
                port,
                from_port: 0,
                outcome: verdict.into(),
            });
        }
    }

    /// Answers a notify.
    pub(crate) fn answer_entries(&mut self, id: u64, tag: u32, result: i32, entries: &[RingData]) {
        let body: Vec<u8> = entries.iter().flat_map(RingData::encode).collect();
        let body: &[&[u8]] = if result < 0 { &[] } else { &[&body] };
        self.answer_with(id, tag, result, body);
    }

    fn receive(&mut self, id: u64, endpoint: Endpoint, tag: u32, call: &Receive) {
        if call.pad != 0 || call.flags & !WAKE != 0 {
            return self.answer(id, tag, Err(Errno::Einval));
        }
        self.forget_told(id, call.port, call.partner);
        let mut messages = Vec::new();
        let most = call.max_bytes.min(MAX_MESSAGES);
        let taken =
            self.mediator
                .receive_slots(endpoint, call.port, call.partner, most, &mut messages);
        let count = match taken {
            Ok(count) => u32::try_from(count).unwrap_or(u32::MAX),
            Err(error) => return self.answer(id, tag, Err(error)),
        };
        if call.flags & WAKE != 0 {
            let left = self.mediator.peek(endpoint, call.port, call.partner);
            if left == Ok(None) {
                // Fails only for a caller that is not there.
                let _ = self.mediator.wake(endpoint);
            }
        }
        self.answer_with(id, tag, number(Ok(count)), &[&messages]);
    }

    /// The next message of the ring is told of again.
    fn forget_told(&mut self, id: u64, port: u32, partner: u16) {
        if let Some(connection) = self.connections.get_mut(&id) {
            if let Role::Client(client) = &mut connection.role {
                client
                    .told
                    .retain(|ring| ring.port != port || ring.partner_id() != partner);
            }
        }
    }

    fn info(&mut self, id: u64, endpoint: Endpoint, tag: u32) {
        let me = endpoint.domain().id();
        let seen = |ring: &RingStatus| me == HOST || ring.name.owner.id() == me;
        let rows: Vec<_> = self.mediator.rings().filter(seen).map(row).collect();
        let body: Vec<u8> = rows.iter().flat_map(RingRow::encode).collect();
        let count = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        self.answer_with(id, tag, number(Ok(count)), &[&body]);
    }
}

fn row(ring: RingStatus) -> RingRow {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    RingRow {
        port: ring.name.port,
        partner: ring.name.partner_id(),
        owner: ring.name.owner.id(),
        len: ring.len,
        used: ring.used,
        messages: count(ring.messages),
        waiting: count(ring.waiting),
    }
}

/// A message as the mediator takes it; of too many pieces, one too many.
pub(crate) fn gather<'a>(
    call: &Sendv<'a>,
    pieces: &'a mut [Piece<'a>; MAX_PIECES + 1],
) -> Outgoing<'a> {
    use inn_ringwire::Piece as Wire;
    for (place, piece) in pieces.iter_mut().zip(call.pieces()) {
        *place = match piece {
            Wire::Bytes(bytes) => Piece::Bytes(bytes),
            Wire::Unreadable(len) => Piece::Unreadable(len),
        };
    }
    let count = call.count().min(MAX_PIECES + 1);
    Outgoing {
        source: call.source,
        destination: call.destination,
        pieces: pieces.get(..count).unwrap_or_default(),
        message_type: call.message_type,
    }
}
