// SPDX-License-Identifier: Apache-2.0
//! One stream's local half: the Unix socket and what waits to be written to it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::io::Errno;

use crate::chain::{GuestBuf, IoVecs, IoVecsMut};
use crate::connection::{Connection, Phase};
use crate::hybrid;
use crate::packet::HEADER_LEN;
use crate::stats::Counters;

/// A connection together with its Unix socket.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) connection: Connection,
    pub(crate) socket: OwnedFd,
    /// Accepted from the guest, not taken by the socket yet. The stream's
    /// credit bounds it to `BUF_ALLOC` bytes and the `OK` line.
    outbound: VecDeque<u8>,
    /// Bytes at the front of `outbound` that are ours, not the guest's.
    uncredited: usize,
    /// What a client sent right behind its `CONNECT` line.
    prefix: VecDeque<u8>,
    /// Reading may yield something; cleared by EAGAIN (edge-triggered epoll).
    pub(crate) readable: bool,
    /// The local peer closed its socket.
    hung_up: bool,
    writes_shut: bool,
    reads_shut: bool,
    /// In the muxer's queue of turns.
    pub(crate) queued: bool,
    /// The table decided on it, and counts it.
    pub(crate) judged: bool,
    /// TCP's handshake with a service is under way.
    pub(crate) connecting: bool,
    /// Counted as established.
    pub(crate) established: bool,
    /// The guest is done with it; only `outbound` has to be written.
    pub(crate) detached: bool,
    /// Answer with `OK <port>` when the guest accepts.
    pub(crate) greet: bool,
    pub(crate) deadline: Option<Instant>,
    /// The guest asked for it, and the other end has said nothing yet (see `pace`).
    pub(crate) unanswered: bool,
    /// Until when to try again a service whose backlog is full.
    pub(crate) dial_until: Option<Instant>,
    /// Until when to ask again another guest that has no room.
    pub(crate) ask_until: Option<Instant>,
    /// What another device answered so far to our `LINK` line; `None` where
    /// no answer is awaited.
    pub(crate) link_answer: Option<Vec<u8>>,
}

/// How reading from the local socket went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// This many bytes are in guest memory.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The local side sent everything it had to send.
    End,
    /// The local side is broken.
    Broken,
}

impl Stream {
    pub(crate) fn new(connection: Connection, socket: OwnedFd, prefix: &[u8], greet: bool) -> Self {
        let unanswered = connection.guest_opened();
        Self {
            connection,
            socket,
            outbound: VecDeque::new(),
            uncredited: 0,
            prefix: prefix.iter().copied().collect(),
            readable: true,
            hung_up: false,
            writes_shut: false,
            reads_shut: false,
            queued: false,
            judged: false,
            connecting: false,
            established: false,
            detached: false,
            greet,
            deadline: None,
            unanswered,
            dial_until: None,
            ask_until: None,
            link_answer: None,
        }
    }

    /// Whether the stream should get a turn at the guest's RX queue.
    pub(crate) fn wants_turn(&self) -> bool {
        self.connection.has_control() || self.wants_to_send()
    }

    /// Whether there may be bytes for the guest, and it has room for them.
    pub(crate) fn wants_to_send(&self) -> bool {
        (self.readable || !self.prefix.is_empty()) && self.connection.can_send()
    }

    /// Whether nothing waits to be written, or nobody is there to read it.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outbound.is_empty()
    }

    /// The guest accepted: greet the client where that is the convention.
    pub(crate) fn opened(&mut self, counters: &Counters) {
        if self.greet {
            let line = hybrid::ok_line(self.connection.key().far_port);
            self.uncredited = line.len();
            self.outbound.extend(line.as_bytes());
            self.flush(counters);
        }
    }

    /// Asks another device for a stream to its guest; it answers by a line.
    pub(crate) fn send_link_line(&mut self) -> bool {
        let key = self.connection.key();
        let line = hybrid::link_line(key.far_port, key.guest_port);
        self.link_answer = Some(Vec::new());
        // A fresh socket takes so little at once.
        rustix::io::write(&self.socket, line.as_bytes()).is_ok_and(|count| count == line.len())
    }

    /// Reads on in another device's answer: `None` until the line is whole,
    /// then whether its guest accepted. What came behind it waits for the guest.
    pub(crate) fn read_link_answer(&mut self) -> Option<bool> {
        let answer = self.link_answer.as_mut()?;
        let mut bytes = [0; hybrid::MAX_LINE];
        let room = &mut bytes[answer.len()..];
        match rustix::io::read(&self.socket, &mut *room) {
            Ok(0) => return Some(false),
            Ok(count) => answer.extend_from_slice(&room[..count]),
            Err(Errno::WOULDBLOCK | Errno::INTR) => return None,
            Err(_) => return Some(false),
        }
        match hybrid::parse_ok(answer) {
            hybrid::Line::Incomplete => None,
            hybrid::Line::Ok { consumed } => {
                self.prefix.extend(answer.drain(consumed..));
                self.link_answer = None;
                Some(true)
            }
            _ => Some(false),
        }
    }

    /// Notes what epoll saw.
    pub(crate) fn on_event(&mut self, readable: bool, hung_up: bool) {
        self.readable |= readable;
        self.hung_up |= hung_up;
        if self.hung_up {
            // What the client wrote before it closed is still to be read.
            self.drop_outbound();
            self.connection.local_stopped_reading();
        }
    }

    /// Whether a client that waits for the guest's answer went away and left
    /// nothing that the guest should get.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.hung_up
            && self.connection.phase() == Phase::Requesting
            && self.prefix.is_empty()
            && rustix::io::ioctl_fionread(&self.socket).is_ok_and(|unread| unread == 0)
    }

    /// Writes payload of a packet straight from guest memory; keeps the rest.
    pub(crate) fn deliver(&mut self, packet: &GuestBuf<'_>, len: usize, counters: &Counters) {
        let mut written = 0;
        if self.outbound.is_empty() && len > 0 {
            let mut vecs = IoVecs::default();
            vecs.push(packet, HEADER_LEN, len);
            match vecs.send(self.socket.as_fd()) {
                Ok(count) => written = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return self.reader_left(len),
            }
            self.count_written(written, counters);
        }
        packet.append_to(HEADER_LEN + written, len - written, &mut self.outbound);
    }

    /// Writes what waits until the socket is full.
    pub(crate) fn flush(&mut self, counters: &Counters) {
        while !self.outbound.is_empty() {
            let (front, back) = self.outbound.as_slices();
            let mut vecs = IoVecs::default();
            vecs.push_slice(front);
            vecs.push_slice(back);
            match vecs.send(self.socket.as_fd()) {
                Ok(count) => {
                    self.outbound.drain(..count.min(self.outbound.len()));
                    let ours = count.min(self.uncredited);
                    self.uncredited -= ours;
                    self.count_written(count - ours, counters);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.reader_left(0),
            }
        }
    }

    fn count_written(&mut self, count: usize, counters: &Counters) {
        counters.bytes_to_host.add(count as u64);
        self.forwarded(count);
    }

    fn forwarded(&mut self, count: usize) {
        // Both are bounded by BUF_ALLOC.
        self.connection
            .forwarded(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// EPIPE: the local side shut down reading or closed. It may have written
    /// before, so only this direction ends here.
    fn reader_left(&mut self, dropped: usize) {
        self.drop_outbound();
        self.forwarded(dropped);
        self.connection.local_stopped_reading();
    }

    fn drop_outbound(&mut self) {
        let guests = self.outbound.len() - self.uncredited;
        self.outbound = VecDeque::new();
        self.uncredited = 0;
        self.forwarded(guests);
    }

    /// Passes the guest's half-closes on, each once, when they are due.
    pub(crate) fn pass_on_shutdown(&mut self) {
        if self.connection.guest_sent_all() && self.outbound.is_empty() && !self.writes_shut {
            self.writes_shut = true;
            let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
        }
        if self.connection.guest_stopped_reading() && !self.reads_shut {
            self.reads_shut = true;
            let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Read);
        }
        // Nobody will read to the end of file, so the hang-up stands for it.
        if self.connection.guest_stopped_reading() && self.hung_up {
            self.connection.local_sent_all();
        }
    }

    /// Fills the payload space of RX buffers, at most `room` bytes.
    pub(crate) fn read_into(&mut self, buffers: &[GuestBuf<'_>], room: usize) -> Read {
        if !self.prefix.is_empty() {
            return Read::Bytes(self.read_prefix(buffers, room));
        }
        let mut vecs = IoVecsMut::default();
        let mut left = room;
        for buffer in buffers {
            let len = left.min(buffer.len() - HEADER_LEN);
            vecs.push(buffer, HEADER_LEN, len);
            left -= len;
        }
        match vecs.receive(self.socket.as_fd()) {
            Ok(0) => {
                self.readable = false;
                self.connection.local_sent_all();
                Read::End
            }
            Ok(count) => Read::Bytes(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Read::Nothing
            }
            Err(_) => Read::Broken,
        }
    }

    fn read_prefix(&mut self, buffers: &[GuestBuf<'_>], room: usize) -> usize {
        // At most 32 bytes: one buffer is enough, the next turn does the rest.
        let Some(buffer) = buffers.first() else {
            return 0;
        };
        let len = room.min(self.prefix.len()).min(buffer.len() - HEADER_LEN);
        let written = buffer.write_at(HEADER_LEN, &self.prefix.make_contiguous()[..len]);
        self.prefix.drain(..written);
        written
    }
}
