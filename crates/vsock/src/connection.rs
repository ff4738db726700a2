// SPDX-License-Identifier: Apache-2.0
//! One stream as a pure state machine: phases, credit and half-close.
//!
//! Nothing here does I/O. The muxer reports what happened on either side and
//! asks which control packet is due; every decision can be tested by value.
//!
//! Credit (virtio 1.3, section 5.10.6.3): both ends count bytes modulo 2^32.
//! A sender may have `buf_alloc - (sent - fwd_cnt)` bytes under way.

use crate::packet::{Header, Key, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM};

/// Bytes the device buffers per stream for a slow Unix socket. This is what
/// Linux uses by default too (`VIRTIO_VSOCK_DEFAULT_BUF_SIZE`).
pub const BUF_ALLOC: u32 = 256 * 1024;

/// The guest is told about freed space when it believes to have less than
/// this. Every update costs the guest an interrupt; half the buffer keeps a
/// sender busy while the update travels.
const UPDATE_BELOW: u32 = BUF_ALLOC / 2;

/// Where a stream is in its life. Half-close is tracked beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The host asked; the guest has not answered.
    Requesting,
    /// The guest asked; the host's socket is not connected yet.
    Answering,
    /// Established.
    Open,
    /// A reset is due; nothing else will be sent or accepted.
    Ending,
}

/// What the muxer must do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing but to look whether a control packet is due.
    None,
    /// The guest accepted the host's request.
    Opened,
    /// Write the payload to the Unix socket.
    Deliver,
    /// Throw the payload away: the local reader is gone and the guest knows.
    Discard,
    /// The guest reset the stream.
    PeerReset,
    /// The guest broke the protocol; a reset is due and the stream is dead.
    Violation,
    /// As `Violation`: it sent more than it had credit for.
    Overrun,
}

/// The control packets a stream wants to send, each at most once.
#[derive(Debug, Default, Clone, Copy)]
struct Wants {
    request: bool,
    response: bool,
    credit_update: bool,
}

/// One stream between a guest port and a port of the host or of another guest.
#[derive(Debug)]
pub struct Connection {
    guest_cid: u64,
    key: Key,
    phase: Phase,
    wants: Wants,
    /// Who opened it, and whether the guest saw the host's request.
    guest_opened: bool,
    request_sent: bool,
    /// Guest to host: bytes accepted, bytes written on, and the last value of
    /// the latter that the guest was told.
    received: u32,
    forwarded: u32,
    advertised: u32,
    /// Host to guest: bytes sent, and the guest's last word about its buffer.
    sent: u32,
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
    /// `SHUTDOWN_*` bits: what the guest ended, what the local side ended,
    /// and what of the latter the guest was told.
    guest_ended: u32,
    local_ended: u32,
    told: u32,
}

impl Connection {
    /// A stream that the far end asks for.
    #[must_use]
    pub fn to_guest(guest_cid: u64, key: Key) -> Self {
        let mut connection = Self::new(guest_cid, key, Phase::Requesting);
        connection.wants.request = true;
        connection
    }

    /// A stream that the guest asks for with `request`.
    #[must_use]
    pub fn from_guest(request: &Header) -> Self {
        let mut connection = Self::new(request.src_cid, request.key(), Phase::Answering);
        connection.learn_credit(request);
        connection
    }

    fn new(guest_cid: u64, key: Key, phase: Phase) -> Self {
        Self {
            guest_cid,
            key,
            phase,
            wants: Wants::default(),
            guest_opened: phase == Phase::Answering,
            request_sent: false,
            received: 0,
            forwarded: 0,
            advertised: 0,
            sent: 0,
            peer_buf_alloc: 0,
            peer_fwd_cnt: 0,
            guest_ended: 0,
            local_ended: 0,
            told: 0,
        }
    }

    /// Both ends; unique among a guest's live streams.
    #[must_use]
    pub fn key(&self) -> Key {
        self.key
    }

    /// Whether the guest asked for it, and not the far end.
    #[must_use]
    pub fn guest_opened(&self) -> bool {
        self.guest_opened
    }

    /// Where the stream is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes in a packet of this stream. `op` is `None` for unknown ones.
    pub fn on_packet(&mut self, header: &Header, op: Option<Op>) -> Reaction {
        self.learn_credit(header);
        match (self.phase, op) {
            (Phase::Ending, Some(Op::Rst)) | (_, Some(Op::Rst)) => Reaction::PeerReset,
            (Phase::Ending, _) => Reaction::Discard,
            (Phase::Requesting, Some(Op::Response)) => {
                self.phase = Phase::Open;
                Reaction::Opened
            }
            (Phase::Open, Some(Op::Rw)) => self.on_payload(header.len),
            (Phase::Open, Some(Op::Shutdown)) => {
                self.guest_ended |= header.flags & SHUTDOWN_BOTH;
                Reaction::None
            }
            (Phase::Open, Some(Op::CreditUpdate)) => Reaction::None,
            (Phase::Open, Some(Op::CreditRequest)) => {
                self.wants.credit_update = true;
                Reaction::None
            }
            // A second REQUEST comes from a guest that forgot the stream: its
            // ports are free again once both ends dropped it.
            _ => {
                self.abort();
                Reaction::Violation
            }
        }
    }

    fn on_payload(&mut self, len: u32) -> Reaction {
        if self.guest_ended & SHUTDOWN_SEND != 0 {
            self.abort();
            return Reaction::Violation;
        }
        if len > BUF_ALLOC - self.buffered() {
            self.abort();
            return Reaction::Overrun;
        }
        self.received = self.received.wrapping_add(len);
        if self.local_ended & SHUTDOWN_RECEIVE != 0 {
            self.forwarded(len);
            return Reaction::Discard;
        }
        self.consider_update();
        Reaction::Deliver
    }

    fn learn_credit(&mut self, header: &Header) {
        self.peer_buf_alloc = header.buf_alloc;
        self.peer_fwd_cnt = header.fwd_cnt;
    }

    /// Bytes accepted from the guest and not written on; at most [`BUF_ALLOC`].
    #[must_use]
    pub fn buffered(&self) -> u32 {
        self.received.wrapping_sub(self.forwarded).min(BUF_ALLOC)
    }

    /// Bytes that may be sent to the guest now.
    #[must_use]
    pub fn credit(&self) -> usize {
        // A peer may shrink its buffer or invent a `fwd_cnt` ahead of `sent`:
        // both come out as "under way: very much" and leave no credit.
        let under_way = self.sent.wrapping_sub(self.peer_fwd_cnt);
        self.peer_buf_alloc.saturating_sub(under_way) as usize
    }

    /// Whether bytes from the local socket may go to the guest now.
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.phase == Phase::Open
            && self.local_ended & SHUTDOWN_SEND == 0
            && self.guest_ended & SHUTDOWN_RECEIVE == 0
            && self.credit() > 0
    }

    /// `count` bytes reached the local socket.
    pub fn forwarded(&mut self, count: u32) {
        self.forwarded = self.forwarded.wrapping_add(count);
        self.consider_update();
    }

    fn consider_update(&mut self) {
        let guest_sees_free = BUF_ALLOC.saturating_sub(self.received.wrapping_sub(self.advertised));
        if guest_sees_free < UPDATE_BELOW && self.forwarded != self.advertised {
            self.wants.credit_update = true;
        }
    }

    /// The local socket is connected: accept the guest's request.
    pub fn local_connected(&mut self) {
        self.phase = Phase::Open;
        self.wants.response = true;
    }

    /// The local side sent its last byte, and the guest got it.
    pub fn local_sent_all(&mut self) {
        self.local_ended |= SHUTDOWN_SEND;
    }

    /// The local side does not read any more.
    pub fn local_stopped_reading(&mut self) {
        self.local_ended |= SHUTDOWN_RECEIVE;
    }

    /// Whether the local side ended both halves.
    #[must_use]
    pub fn local_is_gone(&self) -> bool {
        self.local_ended == SHUTDOWN_BOTH
    }

    /// Whether the guest will not send more.
    #[must_use]
    pub fn guest_sent_all(&self) -> bool {
        self.guest_ended & SHUTDOWN_SEND != 0
    }

    /// Whether the guest will not receive more.
    #[must_use]
    pub fn guest_stopped_reading(&self) -> bool {
        self.guest_ended & SHUTDOWN_RECEIVE != 0
    }

    /// Whether the guest may know about the stream, so that it needs a reset.
    #[must_use]
    pub fn guest_knows(&self) -> bool {
        self.guest_opened || self.request_sent
    }

    /// Whether the guest was told that both halves of the local side ended.
    /// It owes a reset then.
    #[must_use]
    pub fn awaits_reset(&self) -> bool {
        self.told == SHUTDOWN_BOTH
    }

    /// Ends the stream at once: only a reset will be sent.
    pub fn abort(&mut self) {
        self.phase = Phase::Ending;
        self.wants = Wants::default();
    }

    /// Ends the stream where both directions came to their end and all
    /// accepted bytes were written; returns whether that is so.
    ///
    /// The guest's driver keeps a closed socket until we confirm by a reset,
    /// at most 8 s (`VSOCK_CLOSE_TIMEOUT`, virtio_transport_common.c).
    pub fn finish_if_done(&mut self) -> bool {
        let to_guest_done = self.guest_stopped_reading() || self.told & SHUTDOWN_SEND != 0;
        let done = self.phase == Phase::Open
            && self.guest_sent_all()
            && self.buffered() == 0
            && to_guest_done;
        if done {
            self.abort();
        }
        done
    }

    /// Whether [`next_control`](Self::next_control) has something.
    #[must_use]
    pub fn has_control(&self) -> bool {
        let wants = self.wants;
        self.phase == Phase::Ending
            || wants.request
            || wants.response
            || wants.credit_update
            || self.shutdown_is_due()
    }

    fn shutdown_is_due(&self) -> bool {
        // A guest that sent everything need not hear that nobody reads.
        let moot = if self.guest_sent_all() {
            SHUTDOWN_RECEIVE
        } else {
            0
        };
        self.phase == Phase::Open && self.local_ended & !self.told & !moot != 0
    }

    /// Takes the most urgent control packet.
    pub fn next_control(&mut self) -> Option<Header> {
        if self.phase == Phase::Ending {
            return Some(self.header(Op::Rst, 0, 0));
        }
        if std::mem::take(&mut self.wants.request) {
            self.request_sent = true;
            return Some(self.header(Op::Request, 0, 0));
        }
        if std::mem::take(&mut self.wants.response) {
            return Some(self.header(Op::Response, 0, 0));
        }
        if self.shutdown_is_due() {
            self.told = self.local_ended;
            return Some(self.header(Op::Shutdown, 0, self.told));
        }
        std::mem::take(&mut self.wants.credit_update).then(|| self.header(Op::CreditUpdate, 0, 0))
    }

    /// The header for `len` payload bytes; takes their credit.
    pub fn payload_header(&mut self, len: u32) -> Header {
        self.sent = self.sent.wrapping_add(len);
        self.header(Op::Rw, len, 0)
    }

    fn header(&mut self, op: Op, len: u32, flags: u32) -> Header {
        // Every packet carries the counters, so it is a credit update as well.
        self.advertised = self.forwarded;
        self.wants.credit_update = false;
        Header {
            src_cid: self.key.far_cid,
            dst_cid: self.guest_cid,
            src_port: self.key.far_port,
            dst_port: self.key.guest_port,
            len,
            socket_type: TYPE_STREAM,
            op: op as u16,
            flags,
            buf_alloc: BUF_ALLOC,
            fwd_cnt: self.forwarded,
        }
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
