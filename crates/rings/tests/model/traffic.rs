// SPDX-License-Identifier: Apache-2.0
//! Sending and notifying in the plain engine.

use super::script::{Op, Part, Who};
use super::{
    ANY, EACCES, EAGAIN, EBUSY, ECONNREFUSED, EFAULT, EINVAL, EMSGSIZE, EPERM, ESRCH, Model,
    Outcome, Ring, Sent, bytes, cost, refused, verdict,
};

impl Model {
    /// Where messages of `id` to this address go.
    fn target(&self, id: u16, to: u16, port: u32) -> Option<usize> {
        let of = |partner: u16| {
            let name = (to, port, partner);
            move |ring: &Ring| (ring.owner, ring.port, ring.partner) == name
        };
        self.rings
            .iter()
            .position(of(id))
            .or_else(|| self.rings.iter().position(of(ANY)))
    }

    pub fn send(&mut self, op: &Op) -> Outcome {
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
        if pieces.len() > 8 || *pad != 0 {
            return Err(EINVAL);
        }
        let enabled = self.alive[&who.0].1;
        let owned = self
            .ports
            .get(&(who.0, *from))
            .is_some_and(|(letter, _)| *letter == who.1);
        if (*claims != who.0 && *claims != ANY) || (enabled && !owned) {
            return Err(EPERM);
        }
        self.alive.get(to).ok_or(ESRCH)?;
        if let Some(look) = verdict(self.seed, 2, who.0, *to, *port) {
            return Err(refused(look));
        }
        self.enabled(who.0)?;
        let at = self.target(who.0, *to, *port).ok_or(ECONNREFUSED)?;
        let len = total(pieces)?;
        let life = self.alive[&who.0].0;
        let (ring, percent) = (&mut self.rings[at], self.percent);
        if cost(len) > ring.limit(percent) {
            return Err(EMSGSIZE);
        }
        if cost(len) > ring.open_to(who.0, life, percent) {
            return Err(if ring.wait(*who, life, len) {
                EAGAIN
            } else {
                EBUSY
            });
        }
        if pieces.iter().any(|part| !part.readable && part.len > 0) {
            return Err(EFAULT);
        }
        let parts = pieces.iter().enumerate();
        let parts = parts.map(|(index, part)| bytes(*kind, index, part.len));
        ring.messages.push_back(Sent {
            life,
            id: who.0,
            port: *from,
            kind: *kind,
            bytes: parts.collect::<Vec<_>>().concat(),
        });
        ring.line.retain(|one| one.id != who.0 || !one.woken);
        let told = (
            "arrival",
            (ring.owner, ring.reader),
            (ring.owner, ring.port, ring.partner),
        );
        self.told.push(told);
        Ok(len)
    }

    pub fn notify(&mut self, who: Who, entries: &[(u16, u32, u32)]) -> Outcome {
        self.enabled(who.0)?;
        let (seed, percent) = (self.seed, self.percent);
        for ring in self.rings.iter_mut().filter(|ring| ring.owner == who.0) {
            let port = ring.port;
            ring.line
                .retain(|one| verdict(seed, 4, who.0, one.id, port).is_none());
            let name = (ring.owner, ring.port, ring.partner);
            let woken = ring.wake(percent).into_iter();
            self.told.extend(woken.map(|to| ("space", to, name)));
        }
        if entries.len() > 256 {
            return Err(EINVAL);
        }
        for &(id, port, space) in entries {
            let answer = self.query(who, id, port, space)?;
            self.answers.push(answer);
        }
        Ok(0)
    }

    fn query(&mut self, who: Who, id: u16, port: u32, space: u32) -> Result<(u16, u32), i32> {
        if !self.alive.get(&id).is_some_and(|(_, enabled)| *enabled) {
            return Ok((0, 0));
        }
        match verdict(self.seed, 3, who.0, id, port) {
            Some(0) => return Err(EACCES),
            Some(_) => return Ok((0, 0)),
            None => {}
        }
        let Some(at) = self.target(who.0, id, port) else {
            return Ok((0, 0));
        };
        let life = self.alive[&who.0].0;
        let ring = &mut self.rings[at];
        let max = ring.limit(self.percent) - 16;
        let open = ring.open_to(who.0, life, self.percent);
        let mut flags = 1;
        flags |= if ring.partner == ANY { 2 } else { 0 };
        flags |= if ring.messages.is_empty() { 4 } else { 0 };
        if space > max {
            flags |= 0x10;
        } else if space == 0 || cost(space) <= open {
            ring.line.retain(|one| one.id != who.0 || one.woken);
            flags |= 8;
        } else if !ring.wait(who, life, space) {
            flags |= 0x20;
        }
        Ok((flags, max))
    }
}

fn total(pieces: &[Part]) -> Result<u32, i32> {
    let mut sum = 0u64;
    for part in pieces {
        if part.len > 0x100_0000 - 32 {
            return Err(EINVAL);
        }
        sum += u64::from(part.len);
        if sum > 0x100_0000 - 32 {
            return Err(EMSGSIZE);
        }
    }
    Ok(sum as u32)
}
