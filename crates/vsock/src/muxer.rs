// SPDX-License-Identifier: Apache-2.0
//! All streams of one guest: who gets a packet, and whose turn it is.
//!
//! Fairness: streams that have something for the guest stand in one queue
//! and get one turn each. In the other direction the guest's own order
//! decides, and a slow socket costs nobody else anything: its bytes wait in
//! its own bounded buffer.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::chain::GuestBuf;
use crate::config::Config;
use crate::connection::{Connection, Phase, Reaction};
use crate::listeners::{Handshake, Listener};
use crate::packet::{CID_HOST, HEADER_LEN, Header, Key, Op, TYPE_STREAM};
use crate::peers::{Decisions, Peers};
use crate::poller::{Event, Poller, Timers, Token};
use crate::stats::Counters;
use crate::stream::Stream;

/// Resets that may wait for RX buffers before TX processing pauses, as
/// drivers/vhost/vsock.c does (`vhost_vsock_more_replies`).
const RESET_BACKLOG: usize = 256;
/// How long the guest may take to answer a request.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the guest may take to confirm a close (`VSOCK_CLOSE_TIMEOUT`).
const CLOSE_TIMEOUT: Duration = Duration::from_secs(8);
/// First host port for streams that the host opens; Firecracker's choice.
pub(crate) const FIRST_HOST_PORT: u32 = 1 << 30;

/// The streams of one guest.
#[derive(Debug)]
pub(crate) struct Muxer {
    pub(crate) config: Config,
    pub(crate) counters: Arc<Counters>,
    pub(crate) poller: Arc<Poller>,
    pub(crate) timers: Timers,
    pub(crate) listeners: HashMap<u64, Listener>,
    pub(crate) handshakes: HashMap<u64, Handshake>,
    pub(crate) streams: HashMap<u64, Stream>,
    by_key: HashMap<Key, u64>,
    pub(crate) peers: Peers,
    pub(crate) decisions: Arc<Decisions>,
    /// Streams with something for the guest, in the order of their turns.
    pub(crate) turns: VecDeque<u64>,
    /// Resets of streams that do not exist any more or never did.
    pub(crate) resets: VecDeque<Header>,
    last_id: u64,
    last_port: u32,
}

impl Muxer {
    pub(crate) fn new(
        config: Config,
        counters: Arc<Counters>,
        poller: Arc<Poller>,
        decisions: Arc<Decisions>,
    ) -> Self {
        Self {
            config,
            counters,
            poller,
            timers: Timers::default(),
            listeners: HashMap::new(),
            handshakes: HashMap::new(),
            streams: HashMap::new(),
            by_key: HashMap::new(),
            peers: Peers::default(),
            decisions,
            turns: VecDeque::new(),
            resets: VecDeque::new(),
            last_id: 0,
            last_port: FIRST_HOST_PORT - 1,
        }
    }

    pub(crate) fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    // ---- from the guest ----------------------------------------------------

    /// Whether a packet from the guest may be handled now: each may cause a
    /// reset, and those need room.
    pub(crate) fn accepts_packets(&self) -> bool {
        self.resets.len() < RESET_BACKLOG
    }

    /// Handles one packet. `buf` starts with the bytes `header` was read from.
    pub(crate) fn on_packet(&mut self, header: &Header, buf: &GuestBuf<'_>) {
        if header.src_cid != self.config.guest_cid {
            return self.counters.forged_cid.increment();
        }
        if header.socket_type != TYPE_STREAM {
            return self.reject(header);
        }
        let truncated = header.len as usize > buf.len() - HEADER_LEN;
        if truncated {
            self.counters.packets_dropped.increment();
        }
        // A stream with a hole is broken, so truncation counts as no operation.
        let op = Op::from_wire(header.op).filter(|_| !truncated);
        match self.by_key.get(&header.key()).copied() {
            Some(id) => self.on_stream_packet(id, header, op, buf),
            None if op == Some(Op::Request) => self.on_request(header),
            None => self.reject(header),
        }
    }

    /// Answers a packet for which there is no stream.
    fn reject(&mut self, header: &Header) {
        if header.op == Op::Request as u16 {
            self.counters.refused.increment();
        }
        self.resets.extend(header.reset_reply());
    }

    fn on_stream_packet(&mut self, id: u64, header: &Header, op: Option<Op>, buf: &GuestBuf<'_>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        match stream.connection.on_packet(header, op) {
            Reaction::None => {}
            Reaction::Opened => {
                self.timers
                    .set(&mut stream.deadline, Token::Stream(id), None);
                stream.opened(&self.counters);
                self.count_established(id);
            }
            Reaction::Deliver => stream.deliver(buf, header.len as usize, &self.counters),
            Reaction::Discard => self.counters.packets_dropped.increment(),
            Reaction::PeerReset => return self.on_peer_reset(id),
            Reaction::Violation => self.count_broken(id),
            Reaction::Overrun => {
                self.counters.credit_violations.increment();
                self.count_broken(id);
            }
        }
        self.settle(id);
    }

    fn on_request(&mut self, header: &Header) {
        if !self.has_room() || !self.may_ask(header) {
            return self.reject(header);
        }
        match self.dial(header.key()) {
            Ok((socket, dialled)) => {
                let stream = Stream::new(Connection::from_guest(header), socket, &[], false);
                let id = self.insert(stream);
                self.after_dial(id, dialled);
            }
            Err(_) => self.reject(header),
        }
    }

    /// The local service, or another guest's device, took the guest's connection.
    pub(crate) fn on_dialled(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if self
            .poller
            .add_edge(&stream.socket, Token::Stream(id))
            .is_err()
        {
            stream.connection.abort();
        } else if stream.connection.key().far_cid == CID_HOST {
            stream.connection.local_connected();
            self.count_established(id);
        } else {
            return self.ask_peer(id);
        }
        self.settle(id);
    }

    /// Ends a stream that was asked for and never established.
    pub(crate) fn refuse(&mut self, id: u64) {
        self.counters.refused.increment();
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.connection.abort();
        }
        self.settle(id);
    }

    fn on_peer_reset(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let connection = &stream.connection;
        match connection.phase() {
            Phase::Requesting => self.counters.refused.increment(),
            Phase::Open if !connection.guest_sent_all() && !connection.awaits_reset() => {
                self.counters.reset.increment();
            }
            _ => {}
        }
        // After an orderly shutdown the guest may be impatient, but every
        // byte it sent before is ours to deliver.
        if connection.guest_sent_all() && !stream.is_flushed() {
            stream.detached = true;
            self.by_key.remove(&stream.connection.key());
            self.timers
                .set(&mut stream.deadline, Token::Stream(id), None);
        } else {
            self.remove(id);
        }
    }

    // ---- from the host -----------------------------------------------------

    /// Asks the guest for a stream on behalf of a connected client.
    pub(crate) fn open(&mut self, socket: OwnedFd, guest_port: u32, prefix: &[u8], greet: bool) {
        let Some(host_port) = self.free_port(guest_port).filter(|_| self.has_room()) else {
            return self.counters.refused.increment();
        };
        let key = Key {
            far_cid: CID_HOST,
            far_port: host_port,
            guest_port,
        };
        self.ask_guest(socket, key, prefix, greet);
    }

    /// Asks the guest for the stream `key`, which does not exist yet.
    pub(crate) fn ask_guest(&mut self, socket: OwnedFd, key: Key, prefix: &[u8], greet: bool) {
        let connection = Connection::to_guest(self.config.guest_cid, key);
        let id = self.insert(Stream::new(connection, socket, prefix, greet));
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        self.timers.set(
            &mut stream.deadline,
            Token::Stream(id),
            Some(ANSWER_TIMEOUT),
        );
        if self
            .poller
            .add_edge(&stream.socket, Token::Stream(id))
            .is_err()
        {
            self.counters.refused.increment();
            return self.remove(id);
        }
        self.settle(id);
    }

    fn free_port(&mut self, guest_port: u32) -> Option<u32> {
        // More candidates than streams: one of them is free.
        (0..=self.by_key.len()).find_map(|_| {
            self.last_port = self.last_port.wrapping_add(1).max(FIRST_HOST_PORT);
            // VMADDR_PORT_ANY
            if self.last_port == u32::MAX {
                self.last_port = FIRST_HOST_PORT;
            }
            let key = Key {
                far_cid: CID_HOST,
                far_port: self.last_port,
                guest_port,
            };
            (!self.knows(key)).then_some(self.last_port)
        })
    }

    /// Handles an event of a stream's socket.
    pub(crate) fn on_stream_event(&mut self, id: u64, event: Event) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.link_answer.is_some() {
            return self.on_link_answer(id);
        }
        if stream.connecting {
            return self.on_connecting(id, event);
        }
        stream.on_event(event.readable, event.hung_up);
        if event.writable {
            stream.flush(&self.counters);
        }
        if stream.is_abandoned() {
            stream.connection.abort();
        }
        self.settle(id);
    }

    /// Handles a stream's deadline.
    pub(crate) fn on_stream_deadline(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.deadline = None;
        match stream.connection.phase() {
            Phase::Answering if stream.link_answer.is_some() || stream.connecting => {
                return self.refuse(id);
            }
            Phase::Answering => return self.redial(id),
            Phase::Requesting => return self.refuse(id),
            // The guest did not confirm our close; it is over all the same.
            _ => stream.connection.abort(),
        }
        self.settle(id);
    }

    // ---- the table ---------------------------------------------------------

    pub(crate) fn has_room(&self) -> bool {
        self.streams.len() < self.config.max_connections
    }

    /// Whether a stream of that key lives.
    pub(crate) fn knows(&self, key: Key) -> bool {
        self.by_key.contains_key(&key)
    }

    fn insert(&mut self, mut stream: Stream) -> u64 {
        let id = self.new_id();
        let key = stream.connection.key();
        stream.judged = self.peers.decide_on(key, stream.connection.guest_opened());
        if stream.judged {
            self.peers.count_opened(key.far_cid);
        }
        self.by_key.insert(key, id);
        self.streams.insert(id, stream);
        id
    }

    /// Draws the conclusions after anything happened to a stream.
    pub(crate) fn settle(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.pass_on_shutdown();
        if stream.detached {
            if stream.is_flushed() {
                self.remove(id);
            }
            return;
        }
        stream.connection.finish_if_done();
        if stream.connection.phase() == Phase::Ending {
            // The reset needs no stream, so the local side learns at once.
            let reset = stream
                .connection
                .next_control()
                .filter(|_| stream.connection.guest_knows());
            self.resets.extend(reset);
            return self.remove(id);
        }
        if stream.connection.awaits_reset() && stream.deadline.is_none() {
            self.timers
                .set(&mut stream.deadline, Token::Stream(id), Some(CLOSE_TIMEOUT));
        }
        if stream.wants_turn() && !stream.queued {
            stream.queued = true;
            self.turns.push_back(id);
        }
    }

    pub(crate) fn remove(&mut self, id: u64) {
        let Some(mut stream) = self.streams.remove(&id) else {
            return;
        };
        self.timers
            .set(&mut stream.deadline, Token::Stream(id), None);
        let key = stream.connection.key();
        if stream.judged {
            self.peers.count_closed(key.far_cid);
        }
        if !stream.detached {
            self.by_key.remove(&key);
        }
        if stream.established {
            self.counters.connections_open.decrement();
        }
    }

    pub(crate) fn count_established(&mut self, id: u64) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.established = true;
            self.counters.connections_open.increment();
            self.counters.connections_total.increment();
        }
    }

    pub(crate) fn count_broken(&self, id: u64) {
        if self
            .streams
            .get(&id)
            .is_some_and(|stream| stream.established)
        {
            self.counters.reset.increment();
        }
    }

    /// Resets every stream, as when the guest restarts or the device closes.
    pub(crate) fn reset_all(&mut self) {
        let ids: Vec<u64> = self.streams.keys().copied().collect();
        for id in ids {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.connection.abort();
            }
            self.count_broken(id);
            self.settle(id);
        }
    }

    /// Forgets what waits for the guest: it restarted and knows no stream.
    pub(crate) fn forget_resets(&mut self) {
        self.resets.clear();
    }

    /// The time by which [`on_deadlines`](Self::on_deadlines) must run.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Handles deadlines that have passed.
    pub(crate) fn on_deadlines(&mut self) {
        let now = Instant::now();
        while let Some(token) = self.timers.expired(now) {
            match token {
                Token::Stream(id) => self.on_stream_deadline(id),
                Token::Handshake(id) => self.on_handshake_deadline(id),
                Token::Listener(id) => self.resume_listener(id),
                Token::Wake | Token::Vhost | Token::Kick(_) => {}
            }
        }
    }
}
