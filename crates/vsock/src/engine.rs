// SPDX-License-Identifier: Apache-2.0
//! Moves packets between the guest's queues and the muxer.
//!
//! Batching decides the speed under emulation: a kick and an interrupt cost
//! far more than a packet. So one pass handles whatever the rings hold, then
//! interrupts at most once per queue, and asks for kicks only when it is out
//! of work (TX) or out of buffers (RX).

use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_queue::DescriptorChain;

use crate::chain::{GuestBuf, Memory};
use crate::muxer::Muxer;
use crate::packet::{HEADER_LEN, Header};
use crate::ring::{Malformed, Ring};
use crate::turns::Turn;

/// Queue indices (virtio 1.3, section 5.10.2).
pub(crate) const RX: usize = 0;
/// The guest's transmit queue.
pub(crate) const TX: usize = 1;
/// Queues of the device; the third carries events. QEMU keeps that one to
/// itself, and the device has no event to report.
pub(crate) const QUEUES: usize = 3;

/// Chains handled in one pass before sockets and the other queue get theirs.
const PASS: usize = 256;
/// RX buffers filled by one read; 18 of Linux's, which take 3732 bytes each,
/// hold what its peer sends in one packet.
const BUFFERS_PER_TURN: usize = 18;

/// How long a guest that takes its buffers back late may wait to hear of them,
/// and how many it may have to take back: a quarter of QEMU's 128. It needs none
/// of them to go on, and mostly something for it comes meanwhile, with an
/// interrupt of which it makes use for both.
const TX_SIGNAL_LATER: Duration = Duration::from_millis(2);
const TX_SIGNAL_AT: usize = 32;

/// The queues and the streams they serve.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) memory: Option<Arc<Memory>>,
    pub(crate) rings: [Ring; QUEUES],
    pub(crate) muxer: Muxer,
    /// The TX ring may hold chains that no kick will announce.
    tx_pending: bool,
    /// Chains given back without a word, and when one is due.
    tx_unsaid: usize,
    tx_signal_due: Option<Instant>,
}

/// An RX chain that is ours until it is filled or given back.
struct RxBuffer<'m> {
    head: u16,
    buf: GuestBuf<'m>,
}

impl Engine {
    pub(crate) fn new(muxer: Muxer) -> Result<Self, virtio_queue::Error> {
        Ok(Self {
            memory: None,
            rings: [Ring::new()?, Ring::new()?, Ring::new()?],
            muxer,
            tx_pending: false,
            tx_unsaid: 0,
            tx_signal_due: None,
        })
    }

    /// A queue was kicked or became active.
    pub(crate) fn on_kick(&mut self, index: usize) {
        if let Some(ring) = self.rings.get_mut(index) {
            ring.drain_kick();
        }
        self.tx_pending |= index == TX;
    }

    /// Does what can be done now; `true` if there is more to do at once.
    pub(crate) fn run(&mut self) -> bool {
        let Some(memory) = self.memory.clone() else {
            return false;
        };
        let mut more = false;
        if self.tx_pending && self.rings[TX].is_active() {
            match self.run_tx(&memory) {
                Ok(pending) => self.tx_pending = pending,
                Err(Malformed) => self.break_down(TX),
            }
            more |= self.tx_pending && self.muxer.accepts_packets();
        }
        if self.muxer.wants_buffers() && self.rings[RX].is_active() {
            match self.run_rx(&memory) {
                Ok(unfinished) => more |= unfinished,
                Err(Malformed) => self.break_down(RX),
            }
            more |= self.tx_pending && self.rings[TX].is_active() && self.muxer.accepts_packets();
        }
        more
    }

    fn break_down(&mut self, index: usize) {
        self.rings[index].break_down();
        self.muxer.counters.broken_queues.increment();
    }

    /// Handles one pass of TX chains; `true` if some may be left.
    fn run_tx(&mut self, memory: &Memory) -> Result<bool, Malformed> {
        self.rings[TX].silence(memory)?;
        let mut handled = 0;
        let pending = loop {
            if handled == PASS || !self.muxer.accepts_packets() {
                break true;
            }
            match self.rings[TX].pop(memory)? {
                Some(chain) => {
                    let head = chain.head_index();
                    self.on_tx_chain(memory, chain);
                    self.rings[TX].complete(memory, head, 0)?;
                    handled += 1;
                }
                None if self.rings[TX].ask_for_kick(memory)? => {
                    // An unreadable ring would report chains for ever.
                    handled += 1;
                }
                None => break false,
            }
        };
        self.tx_unsaid += handled;
        if self.tx_unsaid >= TX_SIGNAL_AT {
            self.signal_tx(memory)?;
        } else if self.tx_unsaid > 0 && self.tx_signal_due.is_none() {
            self.tx_signal_due = Some(Instant::now() + TX_SIGNAL_LATER);
        }
        Ok(pending)
    }

    fn signal_tx(&mut self, memory: &Memory) -> Result<(), Malformed> {
        self.tx_unsaid = 0;
        self.tx_signal_due = None;
        self.rings[TX].signal(memory)
    }

    /// Says what was put off: at its time, or because the ring stops.
    pub(crate) fn say_tx(&mut self) {
        if let Some(memory) = self.memory.clone().filter(|_| self.tx_unsaid > 0) {
            if self.signal_tx(&memory).is_err() {
                self.break_down(TX);
            }
        }
    }

    /// The time by which [`on_deadlines`](Self::on_deadlines) must run.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let due = [self.muxer.next_deadline(), self.tx_signal_due];
        due.into_iter().flatten().min()
    }

    /// Does what is due by now.
    pub(crate) fn on_deadlines(&mut self) {
        self.muxer.on_deadlines();
        if self.tx_signal_due.is_some_and(|due| due <= Instant::now()) {
            self.say_tx();
        }
    }

    fn on_tx_chain<'m>(&mut self, memory: &'m Memory, chain: DescriptorChain<&'m Memory>) {
        let packet = GuestBuf::readable(memory, chain)
            .and_then(|buf| Some((Header::parse(&buf.head()?), buf)));
        match packet {
            Some((header, buf)) => self.muxer.on_packet(&header, &buf),
            None => self.muxer.counters.packets_dropped.increment(),
        }
    }

    /// Fills RX buffers while there is something to put in; `true` if the
    /// pass ended early.
    fn run_rx(&mut self, memory: &Memory) -> Result<bool, Malformed> {
        self.rings[RX].silence(memory)?;
        let mut handled = 0;
        let unfinished = loop {
            if !self.muxer.wants_buffers() {
                break false;
            }
            if handled >= PASS {
                break true;
            }
            let Some(first) = self.pop_rx(memory, &mut handled)? else {
                if self.rings[RX].ask_for_kick(memory)? {
                    handled += 1;
                    continue;
                }
                break false;
            };
            handled += self.take_turn(memory, first)?;
        };
        if handled > 0 {
            self.rings[RX].signal(memory)?;
        }
        Ok(unfinished)
    }

    /// Takes an RX buffer that can hold a packet; returns useless ones.
    fn pop_rx<'m>(
        &mut self,
        memory: &'m Memory,
        handled: &mut usize,
    ) -> Result<Option<RxBuffer<'m>>, Malformed> {
        while *handled < PASS {
            let Some(chain) = self.rings[RX].pop(memory)? else {
                break;
            };
            let head = chain.head_index();
            // A buffer for a bare header could never take payload.
            match GuestBuf::writable(memory, chain).filter(|buf| buf.len() > HEADER_LEN) {
                Some(buf) => return Ok(Some(RxBuffer { head, buf })),
                None => {
                    self.muxer.counters.packets_dropped.increment();
                    self.rings[RX].complete(memory, head, 0)?;
                    *handled += 1;
                }
            }
        }
        Ok(None)
    }

    /// Spends `first`, and more buffers for payload, on the next turn.
    /// Returns how many were used.
    fn take_turn<'m>(
        &mut self,
        memory: &'m Memory,
        first: RxBuffer<'m>,
    ) -> Result<usize, Malformed> {
        match self.muxer.next_turn() {
            None => {
                self.rings[RX].unpop(1);
                Ok(0)
            }
            Some(Turn::Control(header)) => {
                first.buf.write_at(0, &header.encode());
                self.rings[RX].complete(memory, first.head, HEADER_LEN)?;
                Ok(1)
            }
            Some(Turn::Payload { id, room }) => self.take_payload_turn(memory, first, id, room),
        }
    }

    fn take_payload_turn<'m>(
        &mut self,
        memory: &'m Memory,
        first: RxBuffer<'m>,
        id: u64,
        room: usize,
    ) -> Result<usize, Malformed> {
        let mut heads = Vec::with_capacity(BUFFERS_PER_TURN);
        let mut bufs = Vec::with_capacity(BUFFERS_PER_TURN);
        let mut space = 0usize;
        let mut next = Some(first);
        while let Some(RxBuffer { head, buf }) = next.take() {
            space = space.saturating_add(buf.len() - HEADER_LEN);
            heads.push(head);
            bufs.push(buf);
            if space < room && heads.len() < BUFFERS_PER_TURN {
                next = self.next_payload_buffer(memory)?;
            }
        }
        let mut left = self.muxer.fill(id, &bufs, room);
        let mut used = 0;
        for (head, buf) in heads.iter().zip(&bufs) {
            let len = left.min(buf.len() - HEADER_LEN);
            if len == 0 {
                break;
            }
            self.rings[RX].complete(memory, *head, HEADER_LEN + len)?;
            left -= len;
            used += 1;
        }
        self.rings[RX].unpop(heads.len() - used);
        Ok(used)
    }

    /// As [`pop_rx`](Self::pop_rx), but leaves a useless chain where it is:
    /// chains must come back in order for `unpop` to be right.
    fn next_payload_buffer<'m>(
        &mut self,
        memory: &'m Memory,
    ) -> Result<Option<RxBuffer<'m>>, Malformed> {
        let Some(chain) = self.rings[RX].pop(memory)? else {
            return Ok(None);
        };
        let head = chain.head_index();
        let buf = GuestBuf::writable(memory, chain).filter(|buf| buf.len() > HEADER_LEN);
        if buf.is_none() {
            self.rings[RX].unpop(1);
        }
        Ok(buf.map(|buf| RxBuffer { head, buf }))
    }
}
