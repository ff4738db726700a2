// SPDX-License-Identifier: Apache-2.0
//! A connection to the board: requests out, answers and events in.

use inn_ringwire::abi::{Address, RingData};
use inn_ringwire::{
    Answer, Limits, MAX_PAYLOAD, Notice, Piece, Request, Sendv, VERSION, kind, split,
};

use crate::buffer::{Input, Output};
use crate::events::{Events, Lost};
use crate::kernel::{Descriptor, Error, POLLIN, POLLOUT};

/// The host, and its port for guests.
const BOARD: (u32, u32) = (2, 7078);

/// Where the board is.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// This program runs in a guest.
    Host,
    /// The `rings.sock` of a guest; this program runs on its host.
    Socket(&'a [u8]),
}

/// A connection. What it registered and bound goes with it.
#[derive(Debug)]
pub struct Client {
    stream: Descriptor,
    bell: Descriptor,
    watch: Descriptor,
    input: Input,
    output: Output,
    events: Events,
    /// Whoever uses the client has something to read that left the socket.
    readable: bool,
    domain: u16,
}

impl Client {
    /// Connects, and says hello.
    ///
    /// # Errors
    /// There is no board, or it speaks another version.
    pub fn open(place: Place<'_>) -> Result<Self, Error> {
        let stream = match place {
            Place::Host => Descriptor::vsock(BOARD.0, BOARD.1)?,
            Place::Socket(path) => Descriptor::unix(path)?,
        };
        let bell = Descriptor::bell()?;
        let mut client = Self {
            watch: Descriptor::watching([&stream, &bell])?,
            stream,
            bell,
            input: Input::new()?,
            output: Output::new()?,
            events: Events::new(),
            readable: false,
            domain: 0,
        };
        let mut limits = [0; 16];
        client.call(&Request::Hello(VERSION), &mut limits)?;
        client.domain = Limits::decode(&limits).map_err(|_| Error::PROTO)?.domain;
        Ok(client)
    }

    /// The own domain's id.
    #[must_use]
    pub const fn domain(&self) -> u16 {
        self.domain
    }

    /// A descriptor that is readable when [`Client::event`] may have something.
    #[must_use]
    pub const fn watch(&self) -> i32 {
        self.watch.number()
    }

    /// Makes [`Client::watch`] readable in any case.
    pub fn keep_readable(&mut self, on: bool) {
        if self.readable != on {
            self.readable = on;
            self.show_events();
        }
    }

    /// Any request but `sendv` and `notify`: its result, and how many bytes of its
    /// answer's body were put into `target`.
    ///
    /// # Errors
    /// What the board answers.
    pub fn call(
        &mut self,
        request: &Request<'_>,
        target: &mut [u8],
    ) -> Result<(u32, usize), Error> {
        self.one(target, &mut |output| {
            let tag = output.next_tag();
            request.encode(output, tag);
        })
    }

    /// Sends one message.
    ///
    /// # Errors
    /// What the board answers; `AGAIN`: an event tells of room.
    pub fn sendv(
        &mut self,
        addresses: [Address; 2],
        message_type: u32,
        pieces: &[Piece<'_>],
    ) -> Result<u32, Error> {
        fits(pieces)?;
        let sent = self.one(&mut [], &mut |output| {
            let tag = output.next_tag();
            Sendv::encode(output, tag, addresses, message_type, pieces);
        });
        sent.map(|(bytes, _)| bytes)
    }

    /// Wakes who waits for the own domain's rings, and has the entries answered.
    ///
    /// # Errors
    /// What the board answers.
    pub fn notify(&mut self, entries: &mut [RingData]) -> Result<(), Error> {
        const BYTES: usize = 20 * inn_ringwire::abi::MAX_ENTRIES;
        // One more than may be asked is still the board's to refuse.
        if entries.len() > inn_ringwire::abi::MAX_ENTRIES + 1 {
            return Err(Error::INVAL);
        }
        let mut body = [0; BYTES];
        let (_, len) = self.one(&mut body, &mut |output| {
            let tag = output.next_tag();
            Request::encode_notify(output, tag, entries);
        })?;
        let answered = body.get(..len).unwrap_or(&[]).chunks_exact(20);
        for (entry, bytes) in entries.iter_mut().zip(answered) {
            *entry = RingData::decode(bytes.try_into().map_err(|_| Error::PROTO)?);
        }
        Ok(())
    }

    /// Makes requests as long as `next` writes one, while their answers come.
    /// `answered` gets each one's number from 0 on, its result and its body.
    ///
    /// # Errors
    /// The connection's; what each request met is its result.
    pub fn exchange(
        &mut self,
        next: &mut dyn FnMut(&mut Output) -> bool,
        answered: &mut dyn FnMut(usize, i32, &[u8]),
    ) -> Result<(), Error> {
        let first = self.output.last_tag();
        let (mut more, mut missing) = (true, 0_u32);
        while more || missing > 0 {
            while more && self.output.has_room() {
                let before = self.output.last_tag();
                more = next(&mut self.output);
                if self.output.last_tag() != before {
                    missing += 1;
                }
            }
            if missing > 0 {
                self.pump(-1, &mut |tag, answer| {
                    // Tags go from 1 to 2^32 - 1 and around.
                    let index = if tag > first {
                        tag - first - 1
                    } else {
                        tag.wrapping_sub(first).wrapping_sub(2)
                    };
                    missing = missing.saturating_sub(1);
                    answered(index as usize, answer.result, answer.body);
                })?;
            }
        }
        Ok(())
    }

    /// The next event; `None`: there was none in time.
    ///
    /// # Errors
    /// The connection's.
    ///
    /// `timeout_ms`: 0 does not wait, -1 waits for ever.
    pub fn event(&mut self, timeout_ms: i32) -> Result<Option<Result<Notice, Lost>>, Error> {
        if self.events.is_empty() {
            self.pump(timeout_ms, &mut |_, _| {})?;
        }
        let event = self.events.pop();
        self.show_events();
        Ok(event)
    }

    fn one(
        &mut self,
        target: &mut [u8],
        encode: &mut dyn FnMut(&mut Output),
    ) -> Result<(u32, usize), Error> {
        let (mut first, mut found) = (true, (Error::PROTO.0.wrapping_neg(), 0));
        self.exchange(
            &mut |output| {
                if core::mem::take(&mut first) {
                    encode(output);
                    return true;
                }
                false
            },
            &mut |_, result, body| {
                let len = body.len().min(target.len());
                if let (Some(room), Some(bytes)) = (target.get_mut(..len), body.get(..len)) {
                    room.copy_from_slice(bytes);
                }
                found = (result, len);
            },
        )?;
        let (result, len) = found;
        match u32::try_from(result) {
            Ok(number) => Ok((number, len)),
            Err(_) => Err(Error(result.wrapping_neg())),
        }
    }

    /// Waits until bytes can come or go, and moves those that can.
    fn pump(
        &mut self,
        timeout_ms: i32,
        answered: &mut dyn FnMut(u32, Answer<'_>),
    ) -> Result<(), Error> {
        let wanted = if self.output.is_empty() {
            POLLIN
        } else {
            POLLIN | POLLOUT
        };
        let ready = match self.stream.poll(wanted, timeout_ms) {
            Err(Error::INTR) if timeout_ms < 0 => 0,
            other => other?,
        };
        if ready & POLLOUT != 0 {
            match self.stream.send(self.output.waiting()) {
                Ok(count) => self.output.took(count),
                Err(Error::AGAIN | Error::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        if ready & !POLLOUT != 0 {
            match self.stream.receive(self.input.room()) {
                Ok(0) => return Err(Error::CONNRESET),
                Ok(count) => self.input.came(count),
                Err(Error::AGAIN | Error::INTR) => {}
                Err(error) => return Err(error),
            }
            let read = self.read_frames(answered);
            self.show_events();
            read?;
        }
        Ok(())
    }

    fn read_frames(&mut self, answered: &mut dyn FnMut(u32, Answer<'_>)) -> Result<(), Error> {
        while let Some(frame) = split(self.input.unread()).map_err(|_| Error::PROTO)? {
            if frame.kind == kind::ANSWER {
                answered(frame.tag, Answer::decode(&frame).map_err(|_| Error::PROTO)?);
            } else if frame.kind == kind::EVENT {
                let (_, notice) = Notice::decode(&frame).map_err(|_| Error::PROTO)?;
                self.events.push(notice);
            }
            let size = frame.size();
            self.input.done(size);
        }
        Ok(())
    }

    /// Events that left the socket still make `watch` readable.
    fn show_events(&self) {
        self.bell.ring(self.readable || !self.events.is_empty());
    }
}

/// Whether a frame holds these pieces.
fn fits(pieces: &[Piece<'_>]) -> Result<(), Error> {
    // More pieces than a sendv may have are the board's to refuse, as far as a frame holds them.
    if pieces.len() > 1024 {
        return Err(Error::INVAL);
    }
    let sizes = pieces.iter().map(|piece| match piece {
        Piece::Bytes(bytes) => bytes.len() as u64,
        Piece::Unreadable(_) => 0,
    });
    if sizes.fold(0, u64::saturating_add) > u64::from(MAX_PAYLOAD) {
        return Err(Error::MSGSIZE);
    }
    Ok(())
}
