// SPDX-License-Identifier: Apache-2.0
//! Other guests, and the host's services: which of them this guest may reach, and
//! who may reach it.
//!
//! A link joins two devices by one Unix socket per stream. The device of the
//! guest that connects dials the socket that the other's keeper listens on for
//! *this* guest alone, so the socket is the identity, and sends
//! `LINK <port> <own port>\n`; `OK <n>\n` comes back when the other guest
//! accepted. Each side holds its own table and refuses what is not in it.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::pace::Pace;
use crate::packet::{CID_HOST, Key};
use crate::services::Target;

/// What is allowed between this guest and another, or the host (CID 2), of which
/// only `connect` and `max_streams` count.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Where the other's device listens for this guest; empty where nothing
    /// may be dialled.
    pub path: String,
    /// Ports of the other that this guest may connect to.
    pub connect: Vec<RangeInclusive<u32>>,
    /// Ports of this guest that the other may connect to.
    pub accept: Vec<RangeInclusive<u32>>,
    /// Most streams with it at a time, in both directions together.
    pub max_streams: usize,
}

/// One refusal or permission, for the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// CID of the other end, as the guest or the link says it.
    pub peer_cid: u64,
    /// Whether this guest asked for the stream.
    pub outgoing: bool,
    /// The port that was asked for.
    pub port: u32,
    /// The asker's port.
    pub from_port: u32,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a wish for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Allowed by the table.
    Allowed,
    /// No such peer, or not this port.
    Denied,
    /// Allowed, but the peer has its number of streams.
    OverQuota,
    /// It was open, and a new table does not allow it.
    Cut,
}

/// Whether one of the ranges holds `port`.
fn holds(ranges: &[RangeInclusive<u32>], port: u32) -> bool {
    ranges.iter().any(|range| range.contains(&port))
}

/// The table of other guests, with the number of streams to each.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    table: HashMap<u64, Peer>,
    services: HashMap<u32, Target>,
    streams: HashMap<u64, usize>,
    /// Of the guests in the table that this one connected to.
    paces: HashMap<u64, Pace>,
}

impl Peers {
    pub(crate) fn replace(&mut self, table: HashMap<u64, Peer>, services: HashMap<u32, Target>) {
        self.table = table;
        self.services = services;
        self.paces.retain(|cid, _| self.table.contains_key(cid));
    }

    /// What a port of the host leads to, where it is a service.
    pub(crate) fn service(&self, port: u32) -> Option<&Target> {
        self.services.get(&port)
    }

    /// Whether the table decides on a stream. What the host asks for is its
    /// owner's wish, and its ports that are no services are doors of their own.
    pub(crate) fn decide_on(&self, key: Key, outgoing: bool) -> bool {
        key.far_cid != CID_HOST || outgoing && self.services.contains_key(&key.far_port)
    }

    /// How long a new stream has to wait. A service of the host never lacks
    /// room for long: its connections wait in the host's kernel.
    pub(crate) fn pace(&mut self, key: Key) -> Duration {
        if key.far_cid == CID_HOST {
            return Duration::ZERO;
        }
        self.paces
            .entry(key.far_cid)
            .or_default()
            .next(Instant::now())
    }

    /// That guest's program answered on a stream which this one asked for.
    pub(crate) fn answered(&mut self, key: Key) {
        if let Some(pace) = self.paces.get_mut(&key.far_cid) {
            pace.answered(key.far_port, Instant::now());
        }
    }

    /// That guest refused a stream; whether to ask again.
    pub(crate) fn refused(&mut self, key: Key) -> bool {
        let pace = self.paces.get_mut(&key.far_cid);
        pace.is_some_and(|pace| pace.refused(key.far_port, Instant::now()))
    }

    pub(crate) fn path(&self, cid: u64) -> Option<&str> {
        let peer = self.table.get(&cid)?;
        (!peer.path.is_empty()).then_some(peer.path.as_str())
    }

    pub(crate) fn knows(&self, cid: u64) -> bool {
        self.table.contains_key(&cid)
    }

    /// Whether a stream that exists may go on.
    pub(crate) fn allows(&self, cid: u64, port: u32, outgoing: bool) -> bool {
        if cid == CID_HOST && !self.services.contains_key(&port) {
            return false;
        }
        self.table.get(&cid).is_some_and(|peer| {
            let ranges = if outgoing {
                &peer.connect
            } else {
                &peer.accept
            };
            holds(ranges, port)
        })
    }

    /// What becomes of a wish for a new stream.
    pub(crate) fn judge(&self, cid: u64, port: u32, outgoing: bool) -> Verdict {
        if !self.allows(cid, port, outgoing) {
            return Verdict::Denied;
        }
        let most = self.table.get(&cid).map_or(0, |peer| peer.max_streams);
        let now = self.streams.get(&cid).copied().unwrap_or(0);
        if now < most {
            Verdict::Allowed
        } else {
            Verdict::OverQuota
        }
    }

    pub(crate) fn count_opened(&mut self, cid: u64) {
        *self.streams.entry(cid).or_default() += 1;
    }

    pub(crate) fn count_closed(&mut self, cid: u64) {
        if let Some(count) = self.streams.get_mut(&cid) {
            *count -= 1;
            if *count == 0 {
                self.streams.remove(&cid);
            }
        }
    }
}

/// Decisions on their way to whoever keeps the audit.
pub type Decisions = inn_reactor::Outbox<Decision>;

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Peers {
        let mut peers = Peers::default();
        let peer = Peer {
            path: "/run/b/link".into(),
            connect: vec![22..=22, 8000..=8080],
            accept: vec![],
            max_streams: 2,
        };
        peers.replace(HashMap::from([(7, peer)]), HashMap::new());
        peers
    }

    #[test]
    fn what_is_not_in_the_table_is_denied() {
        let peers = peers();
        assert_eq!(peers.judge(7, 22, true), Verdict::Allowed);
        assert_eq!(peers.judge(7, 8080, true), Verdict::Allowed);
        for (cid, port, outgoing) in [(7, 23, true), (7, 22, false), (8, 22, true)] {
            assert_eq!(peers.judge(cid, port, outgoing), Verdict::Denied);
        }
    }

    #[test]
    fn a_quota_counts_streams_that_exist() {
        let mut peers = peers();
        peers.count_opened(7);
        peers.count_opened(7);
        assert_eq!(peers.judge(7, 22, true), Verdict::OverQuota);
        peers.count_closed(7);
        assert_eq!(peers.judge(7, 22, true), Verdict::Allowed);
        peers.count_closed(7);
        assert!(peers.streams.is_empty());
    }
}
