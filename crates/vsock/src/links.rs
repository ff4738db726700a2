// SPDX-License-Identifier: Apache-2.0
//! Streams between guests: both ends of a link (see `peers`).

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::listeners::Clients;
use crate::muxer::{ANSWER_TIMEOUT, Muxer};
use crate::packet::{Header, Key};
use crate::peers::{Decision, Peer, Verdict};
use crate::poller::Token;
use crate::services::Target;

/// How long to ask a guest again that has no room for a stream.
const ASK_FOR: Duration = Duration::from_millis(200);

impl Muxer {
    /// Whether the guest may have the stream it asks for.
    pub(crate) fn may_ask(&self, request: &Header) -> bool {
        let key = request.key();
        !self.peers.decide_on(key, true) || self.judged(key, true) == Verdict::Allowed
    }

    fn judged(&self, key: Key, outgoing: bool) -> Verdict {
        let (port, _) = asked(key, outgoing);
        let verdict = self.peers.judge(key.far_cid, port, outgoing);
        self.note(key, outgoing, verdict);
        if verdict != Verdict::Allowed {
            self.counters.denied.increment();
        }
        verdict
    }

    fn note(&self, key: Key, outgoing: bool, verdict: Verdict) {
        let (port, from_port) = asked(key, outgoing);
        self.decisions.note(Decision {
            peer_cid: key.far_cid,
            outgoing,
            port,
            from_port,
            verdict,
        });
    }

    /// The other device took our connection: tell it what for.
    pub(crate) fn ask_peer(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if !stream.send_link_line() {
            return self.refuse(id);
        }
        self.timers.set(
            &mut stream.deadline,
            Token::Stream(id),
            Some(ANSWER_TIMEOUT),
        );
    }

    /// The other device said something, or went away.
    pub(crate) fn on_link_answer(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        match stream.read_link_answer() {
            None => return,
            Some(false) => return self.on_refusal(id),
            Some(true) => {}
        }
        self.timers
            .set(&mut stream.deadline, Token::Stream(id), None);
        stream.connection.local_connected();
        self.count_established(id);
        self.settle(id);
    }

    /// The other guest does not want the stream, or has no room for it now.
    fn on_refusal(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let (now, key) = (Instant::now(), stream.connection.key());
        let until = *stream.ask_until.get_or_insert(now + ASK_FOR);
        if !self.peers.refused(key) || until <= now || self.dial_anew(id).is_err() {
            self.refuse(id);
        }
    }

    /// Another guest asks for a port of ours.
    pub(crate) fn open_from_peer(&mut self, socket: OwnedFd, key: Key, prefix: &[u8]) {
        let allowed = self.judged(key, false) == Verdict::Allowed;
        // One that lives already is asked for again only by a device gone wrong.
        if !allowed || !self.has_room() || self.knows(key) {
            return self.counters.refused.increment();
        }
        self.ask_guest(socket, key, prefix, true);
    }

    /// Serves another guest's device on `listener` from now on.
    pub(crate) fn add_link(&mut self, listener: OwnedFd, cid: u64) -> std::io::Result<()> {
        self.add_listener(listener, Clients::Peer(cid))
    }

    /// Replaces the table: links to guests that left it close, and streams
    /// that it does not allow are cut.
    pub(crate) fn replace_peers(
        &mut self,
        table: HashMap<u64, Peer>,
        services: HashMap<u32, Target>,
    ) {
        self.peers.replace(table, services);
        let peers = &self.peers;
        self.listeners.retain(|_, listener| match listener.clients {
            Clients::Peer(cid) => peers.knows(cid),
            Clients::Any | Clients::Of(_) => true,
        });
        let cut: Vec<(u64, Key, bool)> = self
            .streams
            .iter()
            .map(|(id, stream)| {
                let connection = &stream.connection;
                (
                    id,
                    stream.judged,
                    connection.key(),
                    connection.guest_opened(),
                )
            })
            .filter(|(_, judged, key, outgoing)| {
                // A door becomes a service, and a service that is no more none.
                (*judged || peers.decide_on(*key, *outgoing))
                    && !peers.allows(key.far_cid, asked(*key, *outgoing).0, *outgoing)
            })
            .map(|(id, _, key, outgoing)| (*id, key, outgoing))
            .collect();
        for (id, key, outgoing) in cut {
            self.note(key, outgoing, Verdict::Cut);
            self.counters.cut.increment();
            self.count_broken(id);
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.connection.abort();
            }
            self.settle(id);
        }
    }
}

/// The port that was asked for, and the asker's.
fn asked(key: Key, outgoing: bool) -> (u32, u32) {
    if outgoing {
        (key.far_port, key.guest_port)
    } else {
        (key.guest_port, key.far_port)
    }
}
