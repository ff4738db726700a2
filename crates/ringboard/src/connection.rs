// SPDX-License-Identifier: Apache-2.0
//! One socket with what was read from it and what it has not taken yet.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::os::fd::OwnedFd;
use std::time::Instant;

use inn_rings::{Endpoint, RingName};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// Bytes that may wait for a client; with more, it is not served further.
pub(crate) const OUTPUT_FULL: usize = 256 << 10;
/// Bytes that may wait for another keeper.
pub(crate) const LINK_FULL: usize = 1 << 20;
/// A buffer that grew larger than this is given back when it is empty.
const BUFFER_KEPT: usize = 64 << 10;

/// Who is at the other end.
#[derive(Debug)]
pub(crate) enum Role {
    /// A program of the guest or of the host.
    Client(Client),
    /// The keeper of another guest, which sends for its programs.
    Incoming {
        /// That guest.
        peer: u16,
        /// Its programs, by its own numbers.
        stand_ins: HashMap<u32, Endpoint>,
    },
    /// The keeper of another guest, which is sent to.
    Outgoing(Outgoing),
}

/// A program.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) endpoint: Endpoint,
    /// Rings of whose messages it was told since it last read them.
    pub(crate) told: BTreeSet<RingName>,
    /// Requests that other keepers have not answered yet.
    pub(crate) in_flight: usize,
}

impl Client {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            told: BTreeSet::new(),
            in_flight: 0,
        }
    }
}

/// The way to another guest's rings.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) peer: u16,
    /// What was asked and not answered, in order.
    pub(crate) pending: VecDeque<Pending>,
    /// Programs of ours that it knows: connections.
    pub(crate) users: HashSet<u64>,
    /// Who waits for room there: connection and port.
    pub(crate) waits: HashSet<(u64, u32)>,
    pub(crate) next_tag: u32,
}

impl Outgoing {
    pub(crate) fn new(peer: u16) -> Self {
        Self {
            peer,
            pending: VecDeque::new(),
            users: HashSet::new(),
            waits: HashSet::new(),
            next_tag: 1,
        }
    }

    /// Notes a request of a client, and returns the tag to send it with.
    pub(crate) fn ask(&mut self, client: u64, what: Asked) -> u32 {
        let tag = self.next_tag;
        self.next_tag = tag.checked_add(1).unwrap_or(1);
        self.pending.push_back(Pending { tag, client, what });
        tag
    }
}

/// A request on a link.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) tag: u32,
    /// Who asked.
    pub(crate) client: u64,
    pub(crate) what: Asked,
}

/// What was asked on a link.
#[derive(Debug)]
pub(crate) enum Asked {
    /// The link's own greeting.
    Hello,
    /// A message: the client's tag, and the destination port.
    Send(u32, u32),
    /// Questions: which collection, and the places of the answers in it.
    Query(u64, Vec<usize>),
}

/// What came of reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    /// Bytes.
    Some,
    /// Nothing for now.
    Nothing,
    /// The other end writes no more.
    End,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    pub(crate) role: Role,
    pub(crate) input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of `output` that are sent already.
    sent: usize,
    /// Whether `hello` came, or was sent.
    pub(crate) greeted: bool,
    /// Whether reading may tell something.
    pub(crate) readable: bool,
    /// Nobody reads what we send; what was asked is still done.
    pub(crate) mute: bool,
    /// It is told a last thing.
    pub(crate) closing: bool,
    /// Waits in the queue for its next turn.
    pub(crate) queued: bool,
    /// Until when an answer is awaited.
    pub(crate) deadline: Option<Instant>,
    /// The bytes it was last counted with.
    pub(crate) counted: usize,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd, role: Role) -> Self {
        Self {
            socket,
            role,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            greeted: false,
            // An edge that came before the registration is not told.
            readable: true,
            mute: false,
            closing: false,
            queued: false,
            deadline: None,
            counted: 0,
        }
    }

    /// Reads once.
    pub(crate) fn fill(&mut self, scratch: &mut [u8]) -> Filled {
        match rustix::net::recv(&self.socket, &mut *scratch, RecvFlags::empty()) {
            Ok((_, 0)) => Filled::End,
            Ok((_, count)) => {
                let bytes = scratch.get(..count).unwrap_or_default();
                self.input.extend_from_slice(bytes);
                Filled::Some
            }
            Err(Errno::INTR) => Filled::Some,
            Err(Errno::WOULDBLOCK) => {
                self.readable = false;
                Filled::Nothing
            }
            Err(_) => Filled::End,
        }
    }

    /// Drops what was read and dealt with.
    pub(crate) fn consumed(&mut self, mut input: Vec<u8>, count: usize) {
        input.drain(..count.min(input.len()));
        if input.is_empty() && input.capacity() > BUFFER_KEPT {
            input = Vec::new();
        }
        self.input = input;
    }

    /// What is yet to be sent, to append to; nothing is kept for who is mute.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        self.role_and_output().1
    }

    /// Both at once.
    pub(crate) fn role_and_output(&mut self) -> (&mut Role, &mut Vec<u8>) {
        if self.mute {
            self.output.clear();
            self.sent = 0;
        }
        (&mut self.role, &mut self.output)
    }

    /// Bytes yet to be sent.
    pub(crate) fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Bytes that this connection keeps.
    pub(crate) fn held(&self) -> usize {
        self.input.len() + self.output.len()
    }

    /// Sends as much as the socket takes now.
    pub(crate) fn flush(&mut self) {
        while let Some(left) = self.output.get(self.sent..).filter(|left| !left.is_empty()) {
            if self.mute {
                break;
            }
            match rustix::net::send(&self.socket, left, SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    // Moves the rest at most once for each half of a buffer.
                    if self.sent > self.output.len() / 2 {
                        self.output.drain(..self.sent);
                        self.sent = 0;
                    }
                    return;
                }
                Err(_) => self.mute = true,
            }
        }
        self.sent = 0;
        if self.output.capacity() > BUFFER_KEPT {
            self.output = Vec::new();
        } else {
            self.output.clear();
        }
    }
}
