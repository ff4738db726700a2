// SPDX-License-Identifier: Apache-2.0
//! A second engine, slow and plain, and a comparison of the two on any script.
//!
//! It keeps messages as a list of values and counts everything anew from them
//! at each call. Nothing but the ABI's constants is shared with the first.

pub mod compare;
mod line;
pub mod script;
mod traffic;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use line::Waiter;
use script::{Op, Who};

pub const ANY: u16 = 0x7FF4;

/// What a call gives: a number, or an errno by its number.
pub type Outcome = Result<u32, i32>;

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EAGAIN: i32 = 11;
const EACCES: i32 = 13;
const EFAULT: i32 = 14;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const ENOMEM: i32 = 12;
const EMSGSIZE: i32 = 90;
const EADDRINUSE: i32 = 98;
const ECONNREFUSED: i32 = 111;

/// An event: what, to whom, about which ring.
pub type Told = (&'static str, Who, (u16, u32, u16));

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Which life of the sender's id.
    pub life: u32,
    pub id: u16,
    pub port: u32,
    pub kind: u32,
    pub bytes: Vec<u8>,
}

impl Sent {
    fn cost(&self) -> u32 {
        cost(self.bytes.len() as u32)
    }
}

pub struct Ring {
    pub owner: u16,
    pub reader: u8,
    pub port: u32,
    pub partner: u16,
    pub len: u32,
    pub messages: VecDeque<Sent>,
    pub line: Vec<Waiter>,
}

#[derive(Default)]
pub struct Model {
    pub permissive: bool,
    pub percent: u32,
    pub seed: u8,
    /// The present life of each id, and whether it takes part.
    pub alive: BTreeMap<u16, (u32, bool)>,
    lives: u32,
    ports: BTreeMap<(u16, u32), (u8, bool)>,
    pub rings: Vec<Ring>,
    pub told: Vec<Told>,
    /// What the last notify answered: flags and size.
    pub answers: Vec<(u16, u32)>,
    pub received: Option<Sent>,
}

fn cost(payload: u32) -> u32 {
    16 + payload.div_ceil(16) * 16
}

/// The policy of a seed, the same for both engines: `None` allows, else what
/// the refusal looks like. Seed 0 allows everything.
pub fn verdict(seed: u8, what: u8, actor: u16, peer: u16, port: u32) -> Option<u8> {
    let mut hash = u32::from(seed);
    for number in [u32::from(what), actor.into(), peer.into(), port] {
        hash = (hash.rotate_left(7) ^ number).wrapping_mul(0x9E37_79B1);
    }
    (seed != 0 && hash >> 29 == 0).then_some((hash >> 13) as u8 % 3)
}

/// Payload of part `index` of a message, so that each is recognised.
pub fn bytes(kind: u32, index: usize, len: u32) -> Vec<u8> {
    (0..len)
        .map(|at| (at as usize + index * 7 + kind as usize) as u8)
        .collect()
}

fn refused(look: u8) -> i32 {
    [EACCES, ECONNREFUSED, ESRCH][usize::from(look)]
}

impl Model {
    pub fn new(percent: u8) -> Self {
        Self {
            permissive: true,
            percent: percent.into(),
            ..Self::default()
        }
    }

    pub fn apply(&mut self, op: &Op) -> Outcome {
        self.told.clear();
        self.answers.clear();
        self.received = None;
        match op {
            Op::Create { id, enabled } => self.create(*id, *enabled),
            Op::Destroy { id } => Ok(self.destroy(*id)),
            Op::Close { who } => Ok(self.close(*who)),
            Op::Bind { who, port } => self.claim(*who, *port).map(|()| {
                self.ports.insert((who.0, *port), (who.1, true));
                0
            }),
            Op::Unbind { who, port } => self.unbind(*who, *port),
            Op::Register { .. } => self.register(op),
            Op::Unregister {
                who,
                port,
                partner,
                pad,
            } => {
                if *pad != 0 {
                    return Err(EINVAL);
                }
                self.enabled(who.0)?;
                let at = self.own(*who, *port, *partner)?;
                let ring = self.rings.remove(at);
                self.gone(ring, false);
                Ok(0)
            }
            Op::Send { .. } => self.send(op),
            Op::Notify { who, entries } => self.notify(*who, entries),
            Op::Receive { who, port, partner } => {
                let at = self.own(*who, *port, *partner)?;
                self.received = self.rings[at].messages.pop_front();
                Ok(0)
            }
            Op::Discard {
                who,
                port,
                partner,
                bytes,
            } => self.discard(*who, *port, *partner, *bytes),
            Op::Permissive { on } => {
                self.permissive = *on;
                Ok(self.reconsider())
            }
            Op::Policy { seed } => {
                self.seed = *seed;
                Ok(self.reconsider())
            }
        }
    }

    fn create(&mut self, id: u16, enabled: bool) -> Outcome {
        match id {
            0x7FF0.. => Err(EINVAL),
            _ if self.alive.contains_key(&id) => Err(EEXIST),
            _ => {
                self.lives += 1;
                self.alive.insert(id, (self.lives, enabled));
                Ok(0)
            }
        }
    }

    fn destroy(&mut self, id: u16) -> u32 {
        if self.alive.remove(&id).is_none() {
            return 0;
        }
        let (gone, left) = std::mem::take(&mut self.rings)
            .into_iter()
            .partition(|ring: &Ring| ring.owner == id || ring.partner == id);
        self.rings = left;
        gone.into_iter().for_each(|ring| self.gone(ring, true));
        self.rings
            .iter_mut()
            .for_each(|ring| ring.line.retain(|one| one.id != id));
        self.ports.retain(|(owner, _), _| *owner != id);
        self.told.retain(|(_, to, _)| to.0 != id);
        0
    }

    fn close(&mut self, who: Who) -> u32 {
        let mine = |ring: &Ring| (ring.owner, ring.reader) == who;
        while let Some(at) = self.rings.iter().position(mine) {
            let ring = self.rings.remove(at);
            self.gone(ring, false);
        }
        self.ports
            .retain(|(id, _), (letter, _)| (*id, *letter) != who);
        for ring in &mut self.rings {
            for waiter in ring.line.iter_mut().filter(|one| one.id == who.0) {
                waiter.letters.remove(&who.1);
            }
            ring.line.retain(|one| !one.letters.is_empty());
        }
        self.told.retain(|(_, to, _)| *to != who);
        0
    }

    fn claim(&self, who: Who, port: u32) -> Result<(), i32> {
        self.alive.get(&who.0).ok_or(ENODEV)?;
        match self.ports.get(&(who.0, port)) {
            Some((letter, _)) if *letter != who.1 => Err(EADDRINUSE),
            _ => Ok(()),
        }
    }

    fn unbind(&mut self, who: Who, port: u32) -> Outcome {
        match self.ports.get_mut(&(who.0, port)) {
            Some((letter, bound)) if *letter == who.1 => *bound = false,
            _ => return Err(ENOENT),
        }
        self.forget_ports();
        Ok(0)
    }

    /// A port stays while it is bound or has a ring.
    fn forget_ports(&mut self) {
        let used: BTreeSet<_> = self
            .rings
            .iter()
            .map(|ring| (ring.owner, ring.port))
            .collect();
        self.ports
            .retain(|key, (_, bound)| *bound || used.contains(key));
    }

    fn gone(&mut self, ring: Ring, tell_reader: bool) {
        let name = (ring.owner, ring.port, ring.partner);
        if tell_reader {
            self.told.push(("closed", (ring.owner, ring.reader), name));
        }
        for waiter in ring.line.into_iter().filter(|one| !one.woken) {
            let told = waiter
                .letters
                .iter()
                .map(|&letter| ("closed", (waiter.id, letter), name));
            self.told.extend(told);
        }
        self.forget_ports();
    }

    fn enabled(&self, id: u16) -> Result<(), i32> {
        if self.alive[&id].1 {
            Ok(())
        } else {
            Err(ENODEV)
        }
    }

    fn may_have(&self, owner: u16, port: u32, partner: u16) -> Result<(), i32> {
        if partner != ANY {
            return verdict(self.seed, 0, owner, partner, port)
                .map_or(Ok(()), |look| Err(refused(look)));
        }
        match verdict(self.seed, 1, owner, ANY, port) {
            _ if !self.permissive => Err(EPERM),
            None => Ok(()),
            Some(0) => Err(EACCES),
            Some(_) => Err(EPERM),
        }
    }

    fn register(&mut self, op: &Op) -> Outcome {
        let Op::Register {
            who,
            port,
            partner,
            len,
            pages,
            flags,
            pad,
        } = *op
        else {
            return Ok(0);
        };
        let good = flags <= 1
            && pad == 0
            && (48..=1 << 24).contains(&len)
            && len % 16 == 0
            && pages == (len + 64).div_ceil(4096);
        if !good {
            return Err(EINVAL);
        }
        if partner != ANY && !self.alive.contains_key(&partner) {
            return Err(ESRCH);
        }
        self.may_have(who.0, port, partner)?;
        self.enabled(who.0)?;
        if partner != ANY && !self.alive[&partner].1 {
            return Err(ECONNREFUSED);
        }
        self.claim(who, port)?;
        let same = |ring: &&Ring| (ring.owner, ring.port, ring.partner) == (who.0, port, partner);
        if let Some(ring) = self.rings.iter().find(same) {
            return if flags == 1 || ring.len != len {
                Err(EEXIST)
            } else {
                Ok(0)
            };
        }
        let own = self.rings.iter().filter(|ring| ring.owner == who.0);
        if own.map(|ring| ring.len).sum::<u32>() + len > 64 << 20 {
            return Err(ENOMEM);
        }
        self.ports.entry((who.0, port)).or_insert((who.1, false));
        self.rings.push(Ring {
            owner: who.0,
            reader: who.1,
            port,
            partner,
            len,
            messages: VecDeque::new(),
            line: vec![],
        });
        Ok(0)
    }

    fn own(&self, who: Who, port: u32, partner: u16) -> Result<usize, i32> {
        let name = (who.0, who.1, port, partner);
        let same = |ring: &Ring| (ring.owner, ring.reader, ring.port, ring.partner) == name;
        self.rings.iter().position(same).ok_or(ENOENT)
    }

    fn discard(&mut self, who: Who, port: u32, partner: u16, bytes: u32) -> Outcome {
        let at = self.own(who, port, partner)?;
        let messages = &mut self.rings[at].messages;
        let ends = messages.iter().scan(0u32, |end, one| {
            *end += one.cost();
            Some(*end)
        });
        let ends: Vec<_> = std::iter::once(0).chain(ends).collect();
        let count = ends.iter().position(|&end| end == bytes).ok_or(EINVAL)?;
        messages.drain(..count);
        Ok(0)
    }

    fn reconsider(&mut self) -> u32 {
        let rings = std::mem::take(&mut self.rings);
        let mut gone = vec![];
        for ring in rings {
            match self.may_have(ring.owner, ring.port, ring.partner) {
                Ok(()) => self.rings.push(ring),
                Err(_) => gone.push(ring),
            }
        }
        gone.into_iter().for_each(|ring| self.gone(ring, true));
        let seed = self.seed;
        for ring in &mut self.rings {
            let name = (ring.owner, ring.port, ring.partner);
            let may = |id| verdict(seed, 2, id, name.0, name.1).is_none();
            for waiter in ring.line.iter().filter(|one| !one.woken && !may(one.id)) {
                let letters = waiter.letters.iter();
                self.told
                    .extend(letters.map(|&letter| ("closed", (waiter.id, letter), name)));
            }
            ring.line.retain(|one| may(one.id));
        }
        0
    }
}
