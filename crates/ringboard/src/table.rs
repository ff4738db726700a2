// SPDX-License-Identifier: Apache-2.0
//! The policy, reduced to one guest: for each other domain, which ports of whose
//! rings. It knows neither names nor rules.

use std::collections::BTreeMap;

use inn_rings::{Appearance, Domain, Operation, Policy, Question, Verdict};

/// The host's programs.
pub const HOST: u16 = 0;

/// Ports, from the first to the last.
pub type Range = (u32, u32);

/// What may flow from one domain to rings of another: all ports are the ring's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flow {
    /// The owner may register a ring for this sender alone.
    pub register: Vec<Range>,
    /// The sender may send; and its share of a wildcard ring in percent.
    pub send: Vec<(u32, u32, u8)>,
    /// The sender may ask about the ring, and wait in its line.
    pub query: Vec<Range>,
    /// The sender may be told of room.
    pub notify: Vec<Range>,
}

/// What is allowed between the guest and one other domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// Where the other's board listens for this guest; empty for the host.
    pub path: String,
    /// To the other's rings.
    pub to: Flow,
    /// To the guest's rings.
    pub from: Flow,
}

/// The whole of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// By the other's id; the host's row is [`HOST`]'s.
    pub rows: BTreeMap<u16, Row>,
    /// Where the guest may register wildcard rings.
    pub guest_any: Vec<Range>,
    /// Where the host's programs may.
    pub host_any: Vec<Range>,
    /// Whether there are wildcard rings at all.
    pub mac_permissive: bool,
}

/// The rules of the guest with an id.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) guest: u16,
    pub(crate) rules: Rules,
}

/// Whether one of the ranges holds `port`.
fn holds(ranges: &[Range], port: u32) -> bool {
    ranges
        .iter()
        .any(|&(first, last)| (first..=last).contains(&port))
}

impl Table {
    /// The row of another guest.
    pub(crate) fn peer(&self, id: u16) -> Option<&Row> {
        if id == HOST || id == self.guest {
            return None;
        }
        self.rules.rows.get(&id)
    }

    /// What flows from `sender` to rings of `owner`.
    fn flow(&self, sender: u16, owner: u16) -> Option<&Flow> {
        if owner == self.guest {
            self.rules.rows.get(&sender).map(|row| &row.from)
        } else if sender == self.guest {
            self.rules.rows.get(&owner).map(|row| &row.to)
        } else {
            None
        }
    }

    /// Decides about `actor` and `peer`, by their ids.
    pub(crate) fn judge(
        &self,
        operation: Operation,
        actor: u16,
        peer: Option<u16>,
        port: u32,
    ) -> Verdict {
        let Some(peer) = peer else {
            let ranges = match actor {
                HOST => &self.rules.host_any,
                id if id == self.guest => &self.rules.guest_any,
                _ => return Verdict::Refuse(Appearance::NoDomain),
            };
            return allowed_if(holds(ranges, port), Appearance::NoDomain);
        };
        // What a domain does with itself is its own affair.
        if actor == peer {
            return Verdict::Allow;
        }
        let (sender, owner) = match operation {
            Operation::RegisterSingle | Operation::RegisterAny | Operation::Notify => (peer, actor),
            Operation::Send | Operation::Query => (actor, peer),
        };
        let Some(flow) = self.flow(sender, owner) else {
            return Verdict::Refuse(Appearance::NoDomain);
        };
        let holds_it = match operation {
            Operation::RegisterSingle | Operation::RegisterAny => holds(&flow.register, port),
            Operation::Send => share(flow, port).is_some(),
            Operation::Query => holds(&flow.query, port),
            Operation::Notify => holds(&flow.notify, port),
        };
        // Who may send somewhere knows that there is somebody.
        let asks = matches!(operation, Operation::Send | Operation::Query);
        let known = asks && !(flow.send.is_empty() && flow.query.is_empty());
        allowed_if(
            holds_it,
            if known {
                Appearance::NoRing
            } else {
                Appearance::NoDomain
            },
        )
    }
}

fn allowed_if(yes: bool, otherwise: Appearance) -> Verdict {
    if yes {
        Verdict::Allow
    } else {
        Verdict::Refuse(otherwise)
    }
}

/// The sender's share of a wildcard ring at `port`, percent.
fn share(flow: &Flow, port: u32) -> Option<u8> {
    let found = flow
        .send
        .iter()
        .find(|(first, last, _)| (*first..=*last).contains(&port));
    found.map(|(_, _, percent)| *percent)
}

impl Policy for Table {
    fn may(&self, question: &Question) -> Verdict {
        let peer = question.peer.map(Domain::id);
        self.judge(question.operation, question.actor.id(), peer, question.port)
    }

    fn wildcard_quota(&self, sender: Domain, owner: Domain, port: u32) -> Option<u8> {
        share(self.flow(sender.id(), owner.id())?, port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Verdict = Verdict::Refuse(Appearance::NoDomain);
    const NO_RING: Verdict = Verdict::Refuse(Appearance::NoRing);

    fn table() -> Table {
        let to = Flow {
            register: vec![(9, 9)],
            send: vec![(10, 20, 25)],
            query: vec![(10, 10)],
            notify: vec![],
        };
        let from = Flow {
            register: vec![(5, 6)],
            notify: vec![(5, 5)],
            ..Flow::default()
        };
        let row = Row {
            path: "/run/b".into(),
            to,
            from,
        };
        Table {
            guest: 3,
            rules: Rules {
                rows: BTreeMap::from([(4, row)]),
                guest_any: vec![(7, 7)],
                ..Rules::default()
            },
        }
    }

    #[test]
    fn ports_are_the_rings() {
        use Operation as O;
        let table = table();
        for (operation, actor, peer, port, want) in [
            (O::Send, 3, Some(4), 10, Verdict::Allow),
            (O::Send, 3, Some(4), 21, NO_RING),
            (O::Query, 3, Some(4), 11, NO_RING),
            (O::Query, 3, Some(4), 10, Verdict::Allow),
            (O::RegisterSingle, 3, Some(4), 5, Verdict::Allow),
            (O::RegisterSingle, 3, Some(4), 9, REFUSED),
            (O::Notify, 3, Some(4), 5, Verdict::Allow),
            (O::Notify, 3, Some(4), 6, REFUSED),
            (O::Send, 4, Some(3), 5, REFUSED),
            (O::Send, 3, Some(5), 10, REFUSED),
            (O::Send, 3, Some(3), 10, Verdict::Allow),
            (O::RegisterAny, 3, None, 7, Verdict::Allow),
            (O::RegisterAny, 3, None, 8, REFUSED),
            (O::RegisterAny, 0, None, 7, REFUSED),
            (O::RegisterAny, 4, None, 7, REFUSED),
        ] {
            let told = (operation, actor, peer, port);
            assert_eq!(table.judge(operation, actor, peer, port), want, "{told:?}");
        }
    }

    #[test]
    fn two_others_have_nothing_to_do_with_each_other_here() {
        let table = table();
        for (actor, peer) in [(4, 0), (0, 4), (4, 5)] {
            let verdict = table.judge(Operation::Send, actor, Some(peer), 10);
            assert_eq!(verdict, REFUSED);
        }
    }
}
