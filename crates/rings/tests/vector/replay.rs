// SPDX-License-Identifier: Apache-2.0
//! Does a vector's steps on the engine and compares what comes of them.

use std::collections::{BTreeMap, BTreeSet};

use inn_rings::abi::{self, Address, DOMID_ANY, MessageHeader, RegisterRing, UnregisterRing};
use inn_rings::{
    Appearance, Availability, Domain, Endpoint, Errno, Event, Mediator, Operation, Outgoing, Piece,
    Policy, Question, RingName, Settings, Verdict,
};

use super::{Entry, Part, Refusal, Setup, Step, Vector, Want, fill};

/// Refuses what a vector lists.
struct Listed(Vec<Refusal>);

impl Policy for Listed {
    fn may(&self, question: &Question) -> Verdict {
        let what = match question.operation {
            Operation::RegisterSingle => "register-single",
            Operation::RegisterAny => "register-any",
            Operation::Send => "send",
            Operation::Query => "query",
            Operation::Notify => "notify",
        };
        let hit = self.0.iter().find(|one| {
            one.what == what
                && one.actor == question.actor.id()
                && one
                    .peer
                    .is_none_or(|peer| question.peer.map(Domain::id) == Some(peer))
                && one.port.is_none_or(|port| port == question.port)
        });
        match hit.map(|one| one.appearance.as_str()) {
            None => Verdict::Allow,
            Some("denied") => Verdict::Refuse(Appearance::Denied),
            Some("no-ring") => Verdict::Refuse(Appearance::NoRing),
            Some("no-domain") => Verdict::Refuse(Appearance::NoDomain),
            Some(other) => panic!("as = {other}"),
        }
    }
}

/// A mediator and what a vector's words mean in it.
struct Replay {
    mediator: Mediator<Listed>,
    /// The lives of each id, the present one last.
    lives: BTreeMap<u16, Vec<Domain>>,
    /// By the names of vectors: `2`, `2b`; `2~` for those of a life before.
    endpoints: BTreeMap<String, Endpoint>,
    bind: bool,
}

fn id(word: &str) -> u16 {
    if word == "any" {
        DOMID_ANY
    } else {
        word.parse().unwrap_or_else(|_| panic!("{word}"))
    }
}

/// `DOMAIN:PORT`; a `+` behind either adds the number of the repetition.
fn address(word: &str, round: usize) -> Address {
    let (domain, port) = word.split_once(':').unwrap_or_else(|| panic!("{word}"));
    let step = |word: &str| u32::try_from(if word.ends_with('+') { round } else { 0 }).unwrap();
    let domain = id(domain.trim_end_matches('+')) + step(domain) as u16;
    let number: u32 = port.trim_end_matches('+').parse().unwrap();
    Address::new(domain, number + step(port))
}

/// `DOMAIN:PORT/PARTNER`
fn ring(step: &Step, round: usize) -> (Address, u16) {
    let word = step.ring.as_deref().expect("a ring");
    let (place, partner) = word.split_once('/').expect("a partner");
    (address(place, round), id(partner))
}

fn bytes(parts: &[Part]) -> Vec<Vec<u8>> {
    let one = |part: &Part| match part {
        Part::Text(text) => text.clone().into_bytes(),
        Part::Fill { fill: len } => fill(*len),
        Part::Unreadable { .. } => vec![],
    };
    parts.iter().map(one).collect()
}

fn flag_names(flags: u16) -> BTreeSet<&'static str> {
    let names = [
        "EXISTS",
        "SHARED",
        "EMPTY",
        "SUFFICIENT",
        "EMSGSIZE",
        "EBUSY",
    ];
    (0..16)
        .filter(|bit| flags & (1 << bit) != 0)
        .map(|bit| names[bit])
        .collect()
}

impl Replay {
    fn new(setup: &Setup) -> Self {
        let settings = Settings {
            availability: match setup.availability.as_str() {
                "absent" => Availability::Absent,
                "off" => Availability::Off,
                "on" => Availability::On,
                other => panic!("availability = {other}"),
            },
            mac_permissive: setup.mac_permissive,
            wildcard_quota_percent: setup.quota_percent,
            max_ring_bytes: setup.max_ring_bytes.unwrap_or(64 << 20),
            ..Settings::default()
        };
        let mut replay = Self {
            mediator: Mediator::new(Listed(setup.refuse.clone()), settings),
            lives: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            bind: setup.bind,
        };
        for id in 1..=setup.domains {
            let enabled = !setup.without_rings.contains(&id);
            replay.create(id, enabled).unwrap();
        }
        replay
    }

    fn create(&mut self, id: u16, enabled: bool) -> Result<(), Errno> {
        let domain = self.mediator.create_domain(id, enabled)?;
        self.lives.entry(id).or_default().push(domain);
        let names = self.endpoints.clone().into_iter();
        self.endpoints = names
            .map(|(name, one)| {
                if one.domain().id() == id {
                    (name + "~", one)
                } else {
                    (name, one)
                }
            })
            .collect();
        Ok(())
    }

    fn caller(&mut self, step: &Step, domain: u16) -> Endpoint {
        let name = step.by.clone().unwrap_or_else(|| domain.to_string());
        if let Some(&endpoint) = self.endpoints.get(&name) {
            return endpoint;
        }
        let number: u16 = name.trim_end_matches(char::is_alphabetic).parse().unwrap();
        let domain = *self.lives[&number].last().unwrap();
        let endpoint = self.mediator.open_endpoint(domain).unwrap();
        self.endpoints.insert(name, endpoint);
        endpoint
    }

    fn describe(&self, event: &Event) -> String {
        let (word, ring) = match event {
            Event::Arrival { ring, .. } => ("arrival", ring),
            Event::Space { ring, .. } => ("space", ring),
            Event::Closed { ring, .. } => ("closed", ring),
        };
        let RingName {
            owner,
            port,
            partner,
        } = ring;
        let partner = partner.map_or("any".into(), |one| one.id().to_string());
        let mut names = self.endpoints.iter();
        let (to, _) = names
            .find(|(_, one)| **one == event.to())
            .expect("a known endpoint");
        format!("{word} {}:{port}/{partner} to {to}", owner.id())
    }

    /// Does a step once and returns its number, errno or `empty`.
    fn apply(&mut self, step: &Step, round: usize) -> Result<u32, Errno> {
        let done = |()| 0;
        match step.op.as_str() {
            "register" => {
                let (place, partner) = ring(step, round);
                let caller = self.caller(step, place.domain);
                let len = step.len.expect("a length");
                let call = RegisterRing {
                    pad: step.pad,
                    pages: step.pages.unwrap_or_else(|| abi::pages(len)),
                    flags: step.flags,
                    ..RegisterRing::new(place.port, partner, len)
                };
                self.mediator.register_ring(caller, &call).map(done)
            }
            "unregister" => {
                let (place, partner) = ring(step, round);
                let caller = self.caller(step, place.domain);
                let (port, pad) = (place.port, step.pad);
                let call = UnregisterRing { port, partner, pad };
                self.mediator.unregister_ring(caller, &call).map(done)
            }
            "send" => self.send(step, round),
            "notify" => self.notify(step),
            "receive" => self.receive(step),
            "discard" => {
                let (place, partner) = ring(step, round);
                let caller = self.caller(step, place.domain);
                let bytes = step.bytes.expect("bytes");
                self.mediator
                    .discard(caller, place.port, partner, bytes)
                    .map(done)
            }
            "call" => {
                let (number, arg3, arg4) = (step.number.expect("number"), step.arg3, step.arg4);
                self.mediator.vet_call(number, arg3, arg4).map(|_| 0)
            }
            other => self.surroundings(other, step),
        }
    }

    /// Steps that are no calls of Argo.
    fn surroundings(&mut self, op: &str, step: &Step) -> Result<u32, Errno> {
        match op {
            "bind" => {
                let caller = self.caller(step, 0);
                self.mediator.bind(caller, step.port.expect("port"))?;
            }
            "unbind" => {
                let caller = self.caller(step, 0);
                self.mediator.unbind(caller, step.port.expect("port"))?;
            }
            "close" => {
                let caller = self.caller(step, 0);
                self.mediator.close_endpoint(caller);
            }
            "create" => self.create(step.id.expect("id"), true)?,
            "destroy" => {
                let domain = *self.lives[&step.id.expect("id")].last().unwrap();
                self.mediator.destroy_domain(domain);
            }
            "policy" => {
                if let Some(refuse) = step.refuse.clone() {
                    self.mediator.set_policy(Listed(refuse));
                }
                if let Some(on) = step.mac_permissive {
                    self.mediator.set_mac_permissive(on);
                }
            }
            other => panic!("op = {other}"),
        }
        Ok(0)
    }

    fn send(&mut self, step: &Step, round: usize) -> Result<u32, Errno> {
        let mut source = address(step.from.as_deref().expect("from"), round);
        let mut destination = address(step.to.as_deref().expect("to"), round);
        let caller = self.caller(step, source.domain);
        if self.bind {
            // Refused where rings are off, as the send will be.
            let _ = self.mediator.bind(caller, source.port);
        }
        source.pad = step.from_pad;
        destination.pad = step.to_pad;
        let bytes = bytes(&step.pieces);
        let pieces: Vec<_> = (step.pieces.iter().zip(&bytes))
            .map(|(part, bytes)| match part {
                Part::Unreadable { unreadable } => Piece::Unreadable(*unreadable),
                _ => Piece::Bytes(bytes),
            })
            .collect();
        let call = Outgoing {
            source,
            destination,
            pieces: &pieces,
            message_type: step.message_type,
        };
        self.mediator.sendv(caller, &call)
    }

    fn notify(&mut self, step: &Step) -> Result<u32, Errno> {
        let caller = self.caller(step, 0);
        let wanted: Vec<&Entry> = (step.entries.iter().chain(&step.entries_of))
            .flat_map(|entry| std::iter::repeat_n(entry, entry.count))
            .collect();
        let question = |entry: &&Entry| abi::RingData::new(address(&entry.ring, 0), entry.space);
        let mut entries: Vec<_> = wanted.iter().map(question).collect();
        let result = self.mediator.notify(caller, &mut entries);
        for (entry, wanted) in entries.iter().zip(wanted) {
            let flags: BTreeSet<_> = wanted.flags.iter().map(String::as_str).collect();
            assert_eq!(flag_names(entry.flags), flags, "of {wanted:?}");
            assert_eq!(entry.max_message_size, wanted.max, "of {wanted:?}");
        }
        result.map(|()| 0)
    }

    fn receive(&mut self, step: &Step) -> Result<u32, Errno> {
        let (place, partner) = ring(step, 0);
        let caller = self.caller(step, place.domain);
        let Some(wanted) = &step.message else {
            let empty = matches!(&step.want, Some(Want::Word(word)) if word == "empty");
            let found = self.mediator.peek(caller, place.port, partner)?;
            assert!(
                empty && found.is_none(),
                "{found:?} and not {:?}",
                step.want
            );
            return Ok(0);
        };
        let (_, sender) = self
            .mediator
            .peek(caller, place.port, partner)?
            .expect("a message");
        let mut slots = vec![];
        let first = abi::HEADER
            + abi::slots(bytes(&wanted.pieces).iter().map(Vec::len).sum::<usize>() as u32);
        let (port, ring) = (place.port, &mut slots);
        let count = self
            .mediator
            .receive_slots(caller, port, partner, first, ring)?;
        assert_eq!(count, 1);
        let (header, rest) = slots.split_first_chunk::<16>().unwrap();
        let header = MessageHeader::decode(header).unwrap();
        assert_eq!(header.source, address(&wanted.from, 0));
        assert_eq!(header.message_type, wanted.message_type);
        let (payload, padding) = rest.split_at(header.payload() as usize);
        assert!(payload == bytes(&wanted.pieces).concat(), "payload");
        assert!(padding.len() < 16 && padding.iter().all(|&byte| byte == 0));
        if let Some(hex) = &wanted.slots {
            let found: String = slots.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(&found[..hex.len()], hex);
        }
        if let Some(life) = wanted.life {
            assert_eq!(sender, self.lives[&header.source.domain][life - 1]);
        }
        Ok(0)
    }

    fn step(&mut self, step: &Step) {
        let wanted = match &step.want {
            None => "0".to_owned(),
            Some(Want::Number(number)) => number.to_string(),
            Some(Want::Word(word)) if word == "empty" => "0".to_owned(),
            Some(Want::Word(word)) => word.clone(),
        };
        for round in 0..step.repeat {
            let result = self.apply(step, round);
            let found = result.map_or_else(|errno| errno.to_string(), |number| number.to_string());
            assert_eq!(found, wanted, "result of round {round} of {step:?}");
        }
        let happened = self.mediator.take_events();
        let mut found: Vec<_> = happened.iter().map(|event| self.describe(event)).collect();
        if step.events.is_none() {
            found.retain(|event| !event.starts_with("arrival"));
        }
        assert_eq!(
            found,
            step.events.clone().unwrap_or_default(),
            "events of {step:?}"
        );
    }
}

/// Plays one vector from its beginning; panics where it fails.
pub fn replay(vector: &Vector) {
    let mut replay = Replay::new(&vector.setup);
    vector.steps.iter().for_each(|step| replay.step(step));
}
