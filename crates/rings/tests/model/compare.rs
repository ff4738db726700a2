// SPDX-License-Identifier: Apache-2.0
//! Plays a script on both engines and compares all that can be seen.

use std::collections::BTreeMap;

use inn_rings::abi::{Address, RegisterRing, RingData, UnregisterRing};
use inn_rings::{
    Appearance, Domain, Endpoint, Errno, Event, Mediator, Message, Operation, Outgoing, Piece,
    Policy, Question, RingName, Settings, Verdict,
};

use super::script::{Op, Who, decode};
use super::{ANY, Model, Outcome, Sent, Told, bytes, verdict};

struct Seeded(u8);

impl Policy for Seeded {
    fn may(&self, question: &Question) -> Verdict {
        let what = match question.operation {
            Operation::RegisterSingle => 0,
            Operation::RegisterAny => 1,
            Operation::Send => 2,
            Operation::Query => 3,
            Operation::Notify => 4,
        };
        let peer = question.peer.map_or(ANY, Domain::id);
        match verdict(self.0, what, question.actor.id(), peer, question.port) {
            None => Verdict::Allow,
            Some(0) => Verdict::Refuse(Appearance::Denied),
            Some(1) => Verdict::Refuse(Appearance::NoRing),
            Some(_) => Verdict::Refuse(Appearance::NoDomain),
        }
    }
}

struct Engine {
    mediator: Mediator<Seeded>,
    alive: BTreeMap<u16, Domain>,
    endpoints: BTreeMap<Who, Endpoint>,
    names: BTreeMap<Endpoint, Who>,
    answers: Vec<(u16, u32)>,
    received: Option<Message>,
}

impl Engine {
    fn who(&mut self, who: Who) -> Endpoint {
        if let Some(&endpoint) = self.endpoints.get(&who) {
            return endpoint;
        }
        let endpoint = self
            .mediator
            .open_endpoint(self.alive[&who.0])
            .expect("few are open");
        self.endpoints.insert(who, endpoint);
        self.names.insert(endpoint, who);
        endpoint
    }

    fn apply(&mut self, op: &Op) -> Result<u32, Errno> {
        self.answers.clear();
        self.received = None;
        match op {
            Op::Create { id, enabled } => {
                let domain = self.mediator.create_domain(*id, *enabled)?;
                self.alive.insert(*id, domain);
            }
            Op::Destroy { id } => {
                if let Some(domain) = self.alive.remove(id) {
                    self.mediator.destroy_domain(domain);
                    self.endpoints.retain(|who, _| who.0 != *id);
                }
            }
            Op::Close { who } => {
                let endpoint = self.who(*who);
                self.mediator.close_endpoint(endpoint);
                self.endpoints.remove(who);
            }
            Op::Bind { who, port } => {
                let who = self.who(*who);
                self.mediator.bind(who, *port)?;
            }
            Op::Unbind { who, port } => {
                let who = self.who(*who);
                self.mediator.unbind(who, *port)?;
            }
            Op::Register {
                who,
                port,
                partner,
                len,
                pages,
                flags,
                pad,
            } => {
                let who = self.who(*who);
                let (pages, flags, pad) = (*pages, *flags, *pad);
                let ring = RegisterRing::new(*port, *partner, *len);
                let call = RegisterRing {
                    pages,
                    flags,
                    pad,
                    ..ring
                };
                self.mediator.register_ring(who, &call)?;
            }
            Op::Unregister {
                who,
                port,
                partner,
                pad,
            } => {
                let who = self.who(*who);
                let (port, partner, pad) = (*port, *partner, *pad);
                let call = UnregisterRing { port, partner, pad };
                self.mediator.unregister_ring(who, &call)?;
            }
            Op::Send { .. } => return self.send(op),
            Op::Notify { who, entries } => self.notify(*who, entries)?,
            Op::Receive { who, port, partner } => {
                let who = self.who(*who);
                self.received = self.mediator.receive(who, *port, *partner)?;
            }
            Op::Discard {
                who,
                port,
                partner,
                bytes,
            } => {
                let who = self.who(*who);
                self.mediator.discard(who, *port, *partner, *bytes)?;
            }
            Op::Permissive { on } => self.mediator.set_mac_permissive(*on),
            Op::Policy { seed } => self.mediator.set_policy(Seeded(*seed)),
        }
        Ok(0)
    }

    fn send(&mut self, op: &Op) -> Result<u32, Errno> {
        let Op::Send {
            who,
            claims,
            from,
            to,
            port,
            pieces,
            kind,
            pad,
        } = op
        else {
            return Ok(0);
        };
        let caller = self.who(*who);
        // What is too large to be sent is not made in the first place.
        let huge = pieces.iter().any(|part| part.len > 1 << 20);
        let made: Vec<_> = pieces
            .iter()
            .enumerate()
            .map(|(index, part)| bytes(*kind, index, if huge { 0 } else { part.len }))
            .collect();
        let pieces: Vec<_> = (pieces.iter().zip(&made))
            .map(|(part, made)| match part.readable && !huge {
                true => Piece::Bytes(made),
                false => Piece::Unreadable(part.len),
            })
            .collect();
        let mut destination = Address::new(*to, *port);
        destination.pad = *pad;
        let call = Outgoing {
            source: Address::new(*claims, *from),
            destination,
            pieces: &pieces,
            message_type: *kind,
        };
        self.mediator.sendv(caller, &call)
    }

    fn notify(&mut self, who: Who, entries: &[(u16, u32, u32)]) -> Result<(), Errno> {
        let caller = self.who(who);
        let entry = |&(id, port, space): &(u16, u32, u32)| RingData {
            flags: 0x8000,
            ..RingData::new(Address::new(id, port), space)
        };
        let mut data: Vec<_> = entries.iter().map(entry).collect();
        let result = self.mediator.notify(caller, &mut data);
        let answered = data
            .iter()
            .filter(|one| result.is_ok() || one.flags != 0x8000);
        self.answers = answered
            .map(|one| (one.flags, one.max_message_size))
            .collect();
        result
    }

    fn told(&mut self) -> Vec<Told> {
        let events = self.mediator.take_events();
        let told = events.iter().map(|event| {
            let (what, ring) = match event {
                Event::Arrival { ring, .. } => ("arrival", ring),
                Event::Space { ring, .. } => ("space", ring),
                Event::Closed { ring, .. } => ("closed", ring),
            };
            (what, self.names[&event.to()], name(ring))
        });
        let mut told: Vec<_> = told.collect();
        told.sort_unstable();
        told
    }
}

fn name(ring: &RingName) -> (u16, u32, u16) {
    (ring.owner.id(), ring.port, ring.partner_id())
}

/// Who calls, for calls that need somebody.
fn caller(op: &Op) -> Option<Who> {
    match op {
        Op::Close { who }
        | Op::Bind { who, .. }
        | Op::Unbind { who, .. }
        | Op::Register { who, .. }
        | Op::Unregister { who, .. }
        | Op::Send { who, .. }
        | Op::Notify { who, .. }
        | Op::Receive { who, .. }
        | Op::Discard { who, .. } => Some(*who),
        _ => None,
    }
}

/// Any bytes: the first one is the quota, the rest a script.
pub fn compare_bytes(bytes: &[u8]) {
    if let Some((percent, script)) = bytes.split_first() {
        compare(percent % 100 + 1, &decode(script));
    }
}

/// Plays `ops` on both; panics at the first difference.
pub fn compare(percent: u8, ops: &[Op]) {
    let settings = Settings {
        mac_permissive: true,
        wildcard_quota_percent: percent,
        ..Settings::default()
    };
    let mut engine = Engine {
        mediator: Mediator::new(Seeded(0), settings),
        alive: BTreeMap::new(),
        endpoints: BTreeMap::new(),
        names: BTreeMap::new(),
        answers: vec![],
        received: None,
    };
    let mut model = Model::new(percent);
    for op in ops {
        if caller(op).is_some_and(|who| !model.alive.contains_key(&who.0)) {
            continue;
        }
        // Memory of the test, not of the engine.
        if matches!(op, Op::Send { pieces, .. } if pieces.iter().map(|part| u64::from(part.len)).sum::<u64>() > 1 << 20
            && pieces.iter().all(|part| part.len <= 0x100_0000))
        {
            continue;
        }
        let expected: Outcome = model.apply(op);
        let found = engine.apply(op).map_err(Errno::number);
        assert_eq!(found, expected, "{op:?}");
        model.told.sort_unstable();
        assert_eq!(engine.told(), model.told, "events of {op:?}");
        if matches!(op, Op::Notify { .. }) {
            let answers = &engine.answers[..model.answers.len()];
            assert_eq!(answers, model.answers, "{op:?}");
        }
        same_message(&engine, &model);
        same_rings(&engine, &model);
    }
}

fn same_message(engine: &Engine, model: &Model) {
    let found = engine.received.as_ref().map(|message| {
        let source = message.header.source;
        assert_eq!(message.header.payload() as usize, message.payload.len());
        assert_eq!((message.sender.id(), source.pad), (source.domain, 0));
        let kind = message.header.message_type;
        (source.domain, source.port, kind, message.payload.as_slice())
    });
    let expected = model.received.as_ref().map(
        |Sent {
             id,
             port,
             kind,
             bytes,
             ..
         }| { (*id, *port, *kind, bytes.as_slice()) },
    );
    assert_eq!(found, expected);
}

fn same_rings(engine: &Engine, model: &Model) {
    let mut found: Vec<_> = (engine.mediator.rings())
        .map(|one| {
            (
                name(&one.name),
                one.len,
                one.used,
                one.messages,
                one.waiting,
            )
        })
        .collect();
    let mut expected: Vec<_> = (model.rings.iter())
        .map(|ring| {
            let name = (ring.owner, ring.port, ring.partner);
            (
                name,
                ring.len,
                ring.used(),
                ring.messages.len(),
                ring.waiting(),
            )
        })
        .collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}
