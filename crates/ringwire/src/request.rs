// SPDX-License-Identifier: Apache-2.0
//! What a client, or the keeper of a peer, asks.

use crate::abi::{Address, MAX_ENTRIES, RegisterRing, RingData, UnregisterRing};
use crate::frame::{Frame, Malformed, Sink, put_prefix};
use crate::reader::Reader;

/// The version that `hello` names.
pub const VERSION: u32 = 1;
/// In a piece's length: the bytes could not be read and do not follow.
pub const UNREADABLE: u32 = 1 << 31;
/// `receive`: if the ring is empty then, wake those who wait for room.
pub const WAKE: u32 = 1;
/// Bytes of one entry of a notify.
const ENTRY: usize = 20;

/// The kinds of frames.
pub mod kind {
    /// The first request of a connection.
    pub const HELLO: u8 = 1;
    /// `register_ring`
    pub const REGISTER: u8 = 2;
    /// `unregister_ring`
    pub const UNREGISTER: u8 = 3;
    /// `sendv`
    pub const SENDV: u8 = 4;
    /// `notify`
    pub const NOTIFY: u8 = 5;
    /// Takes messages out of a ring.
    pub const RECEIVE: u8 = 6;
    /// Makes a port the connection's.
    pub const BIND: u8 = 7;
    /// Gives it back.
    pub const UNBIND: u8 = 8;
    /// Which rings there are.
    pub const INFO: u8 = 9;
    /// Between keepers: a request of one endpoint of the peer.
    pub const FOR: u8 = 0x20;
    /// Between keepers: an endpoint of the peer is gone. No answer.
    pub const GONE: u8 = 0x21;
    /// The answer to a request.
    pub const ANSWER: u8 = 0x80;
    /// Something happened to a ring.
    pub const EVENT: u8 = 0x81;
    /// Between keepers: the same, for one endpoint of the peer.
    pub const EVENT_FOR: u8 = 0x82;
}

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// The protocol's version.
    Hello(u32),
    /// `register_ring`
    Register(RegisterRing),
    /// `unregister_ring`
    Unregister(UnregisterRing),
    /// `sendv`
    Sendv(Sendv<'a>),
    /// `notify`
    Notify(Entries<'a>),
    /// Takes messages.
    Receive(Receive),
    /// 0: any.
    Bind(u32),
    /// The port.
    Unbind(u32),
    /// Rings.
    Info,
    /// A request of a peer's endpoint.
    For(For<'a>),
    /// A peer's endpoint is gone.
    Gone(u32),
    /// A number that no request has yet.
    Unknown(u8),
}

/// The arguments of `sendv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sendv<'a> {
    /// As in [`abi`](crate::abi).
    pub source: Address,
    /// As in [`abi`](crate::abi).
    pub destination: Address,
    /// The sender's word on what it is.
    pub message_type: u32,
    lens: &'a [u8],
    bytes: &'a [u8],
}

/// One piece of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// So many that could not be read.
    Unreadable(u32),
}

impl<'a> Sendv<'a> {
    /// How many pieces there are; not bounded by what `sendv` allows.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.lens.len() / 4
    }

    /// Bytes of payload that came along.
    #[must_use]
    pub const fn payload(&self) -> usize {
        self.bytes.len()
    }

    /// The pieces in order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'a>> + use<'a> {
        let mut left = self.bytes;
        self.lens.chunks_exact(4).filter_map(move |len| {
            let len = u32::from_le_bytes(len.try_into().ok()?);
            if len & UNREADABLE != 0 {
                return Some(Piece::Unreadable(len & !UNREADABLE));
            }
            // The sum was looked at when the frame was read.
            let (piece, rest) = left.split_at_checked(len as usize)?;
            left = rest;
            Some(Piece::Bytes(piece))
        })
    }

    /// Writes it once more, for an endpoint, to another keeper.
    pub fn forward(&self, target: &mut impl Sink, tag: u32, endpoint: u32) {
        let len = 5 + 24 + self.lens.len() + self.bytes.len();
        put_prefix(target, kind::FOR, tag, len);
        target.put(&endpoint.to_le_bytes());
        target.put(&[kind::SENDV]);
        let addresses = [self.source, self.destination];
        put_head(target, addresses, self.message_type, self.count());
        target.put(self.lens);
        target.put(self.bytes);
    }

    /// Writes a `sendv` frame for these pieces.
    pub fn encode(
        target: &mut impl Sink,
        tag: u32,
        [source, destination]: [Address; 2],
        message_type: u32,
        pieces: &[Piece<'_>],
    ) {
        put_prefix(target, kind::SENDV, tag, sendv_size(pieces));
        put_sendv(target, [source, destination], message_type, pieces);
    }

    /// The same, for an endpoint, to another keeper.
    pub fn encode_for(
        target: &mut impl Sink,
        tag: u32,
        endpoint: u32,
        [source, destination]: [Address; 2],
        message_type: u32,
        pieces: &[Piece<'_>],
    ) {
        put_prefix(target, kind::FOR, tag, 5 + sendv_size(pieces));
        target.put(&endpoint.to_le_bytes());
        target.put(&[kind::SENDV]);
        put_sendv(target, [source, destination], message_type, pieces);
    }
}

fn sendv_size(pieces: &[Piece<'_>]) -> usize {
    let bytes: usize = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Unreadable(_) => 0,
        })
        .sum();
    24 + 4 * pieces.len() + bytes
}

fn put_head(
    target: &mut impl Sink,
    [source, destination]: [Address; 2],
    message_type: u32,
    count: usize,
) {
    target.put(&source.encode());
    target.put(&destination.encode());
    target.put(&message_type.to_le_bytes());
    target.put(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_sendv(
    target: &mut impl Sink,
    addresses: [Address; 2],
    message_type: u32,
    pieces: &[Piece<'_>],
) {
    put_head(target, addresses, message_type, pieces.len());
    for piece in pieces {
        let len = match piece {
            Piece::Bytes(bytes) => u32::try_from(bytes.len()).unwrap_or(u32::MAX),
            Piece::Unreadable(len) => *len | UNREADABLE,
        };
        target.put(&len.to_le_bytes());
    }
    for piece in pieces {
        if let Piece::Bytes(bytes) = piece {
            target.put(bytes);
        }
    }
}

/// The entries of a notify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entries<'a>(&'a [u8]);

impl Entries<'_> {
    /// How many; not bounded by what `notify` allows.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.0.len() / ENTRY
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = RingData> {
        let entries = self.0.chunks_exact(ENTRY);
        entries.filter_map(|one| Some(RingData::decode(one.try_into().ok()?)))
    }
}

/// The arguments of `receive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receive {
    /// The ring's port.
    pub port: u32,
    /// As it was registered.
    pub partner: u16,
    /// Must be zero.
    pub pad: u16,
    /// At most so many bytes of messages, with headers and padding.
    pub max_bytes: u32,
    /// 0 or [`WAKE`].
    pub flags: u32,
}

/// A peer's endpoint and what it asks: `sendv`, or the questions of a `notify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct For<'a> {
    /// The peer's number for it.
    pub endpoint: u32,
    kind: u8,
    body: &'a [u8],
}

impl<'a> For<'a> {
    /// What it asks.
    ///
    /// # Errors
    /// Its body is damaged, or its kind is for no other keeper.
    pub fn request(&self) -> Result<Request<'a>, Malformed> {
        match self.kind {
            kind::SENDV | kind::NOTIFY => decode(self.kind, self.body),
            other => Err(Malformed::Kind(other)),
        }
    }
}

impl<'a> Request<'a> {
    /// Reads a request.
    ///
    /// # Errors
    /// It has tag 0, or a body that is none of its kind.
    pub fn decode(frame: &Frame<'a>) -> Result<Self, Malformed> {
        if (frame.tag == 0) != (frame.kind == kind::GONE) {
            return Err(Malformed::Tag(frame.kind));
        }
        decode(frame.kind, frame.body)
    }

    /// Writes any request but `sendv`, `notify` and those of peers.
    pub fn encode(&self, target: &mut impl Sink, tag: u32) {
        match *self {
            Self::Hello(number) => put_number(target, kind::HELLO, tag, number),
            Self::Bind(number) => put_number(target, kind::BIND, tag, number),
            Self::Unbind(number) => put_number(target, kind::UNBIND, tag, number),
            Self::Info => put_prefix(target, kind::INFO, tag, 0),
            Self::Register(call) => {
                put_prefix(target, kind::REGISTER, tag, 20);
                put_ring(target, call.port, call.partner, call.pad);
                for number in [call.len, call.pages, call.flags] {
                    target.put(&number.to_le_bytes());
                }
            }
            Self::Unregister(call) => {
                put_prefix(target, kind::UNREGISTER, tag, 8);
                put_ring(target, call.port, call.partner, call.pad);
            }
            Self::Receive(call) => {
                put_prefix(target, kind::RECEIVE, tag, 16);
                put_ring(target, call.port, call.partner, call.pad);
                target.put(&call.max_bytes.to_le_bytes());
                target.put(&call.flags.to_le_bytes());
            }
            Self::Gone(endpoint) => put_number(target, kind::GONE, 0, endpoint),
            Self::Unknown(number) => put_prefix(target, number, tag, 0),
            Self::Sendv(_) | Self::Notify(_) | Self::For(_) => {}
        }
    }

    /// Writes a `notify`.
    pub fn encode_notify(target: &mut impl Sink, tag: u32, entries: &[RingData]) {
        put_prefix(target, kind::NOTIFY, tag, 4 + ENTRY * entries.len());
        put_entries(target, entries);
    }

    /// Writes the questions of a `notify` for another keeper.
    pub fn encode_notify_for(
        target: &mut impl Sink,
        tag: u32,
        endpoint: u32,
        entries: &[RingData],
    ) {
        put_prefix(target, kind::FOR, tag, 9 + ENTRY * entries.len());
        target.put(&endpoint.to_le_bytes());
        target.put(&[kind::NOTIFY]);
        put_entries(target, entries);
    }
}

fn put_number(target: &mut impl Sink, kind: u8, tag: u32, number: u32) {
    put_prefix(target, kind, tag, 4);
    target.put(&number.to_le_bytes());
}

fn put_ring(target: &mut impl Sink, port: u32, partner: u16, pad: u16) {
    target.put(&port.to_le_bytes());
    target.put(&partner.to_le_bytes());
    target.put(&pad.to_le_bytes());
}

fn put_entries(target: &mut impl Sink, entries: &[RingData]) {
    target.put(
        &u32::try_from(entries.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    for entry in entries {
        target.put(&entry.encode());
    }
}

fn decode(number: u8, body: &[u8]) -> Result<Request<'_>, Malformed> {
    let mut fields = Reader::new(number, body);
    let request = match number {
        kind::HELLO => Request::Hello(fields.u32()?),
        kind::REGISTER => Request::Register(RegisterRing {
            port: fields.u32()?,
            partner: fields.u16()?,
            pad: fields.u16()?,
            len: fields.u32()?,
            pages: fields.u32()?,
            flags: fields.u32()?,
        }),
        kind::UNREGISTER => Request::Unregister(UnregisterRing {
            port: fields.u32()?,
            partner: fields.u16()?,
            pad: fields.u16()?,
        }),
        kind::SENDV => return sendv(fields).map(Request::Sendv),
        kind::NOTIFY => {
            let count = fields.u32()?;
            Request::Notify(Entries(fields.table(count, ENTRY)?))
        }
        kind::RECEIVE => Request::Receive(Receive {
            port: fields.u32()?,
            partner: fields.u16()?,
            pad: fields.u16()?,
            max_bytes: fields.u32()?,
            flags: fields.u32()?,
        }),
        kind::BIND => Request::Bind(fields.u32()?),
        kind::UNBIND => Request::Unbind(fields.u32()?),
        kind::INFO => Request::Info,
        kind::FOR => {
            let (endpoint, kind) = (fields.u32()?, fields.u8()?);
            let body = fields.rest();
            return Ok(Request::For(For {
                endpoint,
                kind,
                body,
            }));
        }
        kind::GONE => Request::Gone(fields.u32()?),
        other => return Ok(Request::Unknown(other)),
    };
    fields.end().map(|()| request)
}

fn sendv(mut fields: Reader<'_>) -> Result<Sendv<'_>, Malformed> {
    let (source, destination) = (fields.array()?, fields.array()?);
    let message_type = fields.u32()?;
    let count = fields.u32()?;
    let lens = fields.table(count, 4)?;
    let bytes = fields.rest();
    let follow = |len: &u32| len & UNREADABLE == 0;
    let sum: u64 = lens
        .chunks_exact(4)
        .filter_map(|len| Some(u32::from_le_bytes(len.try_into().ok()?)))
        .filter(follow)
        .map(u64::from)
        .sum();
    if sum != bytes.len() as u64 {
        return Err(Malformed::Body(kind::SENDV));
    }
    Ok(Sendv {
        source: Address::decode(source),
        destination: Address::decode(destination),
        message_type,
        lens,
        bytes,
    })
}

/// The most entries that a frame can hold are more than a notify may have.
const _: () = assert!(MAX_ENTRIES * ENTRY < crate::MAX_BODY as usize);
