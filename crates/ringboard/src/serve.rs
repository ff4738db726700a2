// SPDX-License-Identifier: Apache-2.0
//! A connection's turn: reads, takes frames, has them done.

use inn_rings::Errno;
use inn_ringwire::{
    Frame, Limits, MAX_FRAME, MAX_PAYLOAD, Malformed, Request, VERSION, encode_answer, split,
};

use crate::board::Board;
use crate::connection::{Filled, OUTPUT_FULL, Role};
use crate::token::Event;

/// Requests of one connection before others get their turn.
const TURN: usize = 256;
/// As how many of them a read counts, so that a turn ends after a MiB, too.
const READ_COST: usize = 16;
/// Requests of one client that other keepers have not answered.
pub(crate) const MAX_REQUESTS: usize = 1024;
/// `EPROTONOSUPPORT`, which is no errno of rings.
const NO_SUCH_VERSION: i32 = -93;

/// Why a turn ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// There is no whole frame.
    Hungry,
    /// Others are waiting too.
    Tired,
    /// The other end does not read.
    Full,
    /// A link does not take more now.
    Blocked,
    /// What came makes no sense.
    Broken,
}

impl From<Malformed> for Stop {
    fn from(_: Malformed) -> Self {
        Self::Broken
    }
}

impl Board {
    /// A socket has something to read or room to write.
    pub(crate) fn on_connection(&mut self, id: u64, event: Event) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.readable |= event.readable;
        connection.mute |= event.hung_up;
        if event.writable || event.hung_up {
            self.touch(id);
        }
        self.queue_up(id);
    }

    /// Does what a connection asks, up to a turn's length.
    pub(crate) fn serve(&mut self, id: u64) {
        let mut left = TURN;
        self.touch(id);
        loop {
            let Some(connection) = self.connections.get_mut(&id) else {
                return;
            };
            if connection.closing {
                return;
            }
            let input = std::mem::take(&mut connection.input);
            let (used, stop) = self.eat(id, &input, &mut left);
            let Some(connection) = self.connections.get_mut(&id) else {
                return;
            };
            connection.consumed(input, used);
            match stop {
                Stop::Hungry => {}
                Stop::Broken => return self.hang_up(id),
                Stop::Tired => return self.queue_up(id),
                // Its socket or the link says when it goes on.
                Stop::Full => return,
                Stop::Blocked => return self.blocked.push(id),
            }
            if !connection.readable {
                return;
            }
            if left == 0 {
                return self.queue_up(id);
            }
            match connection.fill(&mut self.scratch) {
                Filled::Some => left = left.saturating_sub(READ_COST),
                Filled::Nothing => return,
                Filled::End => return self.hang_up(id),
            }
        }
    }

    /// Has frames done and returns how many bytes they were.
    fn eat(&mut self, id: u64, input: &[u8], left: &mut usize) -> (usize, Stop) {
        let mut used = 0;
        loop {
            if self.is_full(id) {
                return (used, Stop::Full);
            }
            let frame = match split(input.get(used..).unwrap_or_default()) {
                Ok(Some(frame)) => frame,
                Ok(None) => return (used, Stop::Hungry),
                Err(_) => return (used, Stop::Broken),
            };
            if *left == 0 {
                return (used, Stop::Tired);
            }
            *left -= 1;
            if let Err(stop) = self.execute(id, &frame) {
                return (used, stop);
            }
            self.deliver();
            used += frame.size();
        }
    }

    fn is_full(&mut self, id: u64) -> bool {
        let Some(connection) = self.connections.get_mut(&id) else {
            return false;
        };
        // Answers of links go to clients, whose own output is looked at.
        if matches!(connection.role, Role::Outgoing(_)) || connection.unsent() < OUTPUT_FULL {
            return false;
        }
        connection.flush();
        connection.unsent() >= OUTPUT_FULL
    }

    fn execute(&mut self, id: u64, frame: &Frame<'_>) -> Result<(), Stop> {
        // A connection that ended meanwhile has no wishes.
        let Some(connection) = self.connections.get_mut(&id) else {
            return Err(Stop::Hungry);
        };
        let (is_client, guest) = match &connection.role {
            Role::Outgoing(_) => return self.on_link(id, frame),
            Role::Client(client) => (true, client.endpoint.domain()),
            Role::Incoming { .. } => (false, self.guest),
        };
        let request = Request::decode(frame)?;
        if let Request::Hello(version) = request {
            if connection.greeted {
                return Err(Stop::Broken);
            }
            connection.greeted = true;
            connection.closing = version != VERSION;
            let limits = Limits {
                domain: guest.id(),
                max_frame: MAX_FRAME,
                max_payload: MAX_PAYLOAD,
                max_requests: u32::try_from(MAX_REQUESTS).unwrap_or(u32::MAX),
            };
            let output = connection.output();
            if version == VERSION {
                encode_answer(output, frame.tag, 0, &[&limits.encode()]);
                return Ok(());
            }
            encode_answer(output, frame.tag, NO_SUCH_VERSION, &[]);
            return Err(Stop::Hungry);
        }
        if !connection.greeted {
            return Err(Stop::Broken);
        }
        if is_client {
            self.on_request(id, frame.tag, request)
        } else {
            self.on_peer(id, frame.tag, request)
        }
    }

    /// Answers a request without a body.
    pub(crate) fn answer(&mut self, id: u64, tag: u32, result: Result<u32, Errno>) {
        self.answer_with(id, tag, number(result), &[]);
    }

    /// Answers a request.
    pub(crate) fn answer_with(&mut self, id: u64, tag: u32, result: i32, body: &[&[u8]]) {
        if let Some(connection) = self.connections.get_mut(&id) {
            encode_answer(connection.output(), tag, result, body);
            self.touch(id);
        }
    }
}

/// A result as it goes over the stream.
pub(crate) fn number(result: Result<u32, Errno>) -> i32 {
    match result {
        Ok(value) => i32::try_from(value).unwrap_or(i32::MAX),
        Err(errno) => -errno.number(),
    }
}
