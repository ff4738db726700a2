// SPDX-License-Identifier: Apache-2.0
//! What comes back: answers, and what happened meanwhile.

use crate::abi::RingData;
use crate::frame::{Frame, Malformed, Sink, put_prefix};
use crate::reader::Reader;
use crate::request::kind;

/// An answer: a number that is not negative, or minus an errno, and a body that
/// depends on the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The result.
    pub result: i32,
    /// What came with it.
    pub body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Reads an answer.
    ///
    /// # Errors
    /// It is none, or too short.
    pub fn decode(frame: &Frame<'a>) -> Result<Self, Malformed> {
        if frame.kind != kind::ANSWER {
            return Err(Malformed::Kind(frame.kind));
        }
        let mut fields = Reader::new(frame.kind, frame.body);
        let result = fields.array().map(i32::from_le_bytes)?;
        let body = fields.rest();
        Ok(Self { result, body })
    }

    /// The entries of a `notify`, as they were answered.
    pub fn entries(&self) -> impl Iterator<Item = RingData> + use<'a> {
        let entries = self.body.chunks_exact(20);
        entries.filter_map(|one| Some(RingData::decode(one.try_into().ok()?)))
    }

    /// The rings of an `info`.
    pub fn rings(&self) -> impl Iterator<Item = RingRow> + use<'a> {
        let rows = self.body.chunks_exact(RingRow::SIZE);
        rows.filter_map(|one| RingRow::decode(one).ok())
    }
}

/// Writes an answer whose body is these pieces one after the other.
pub fn encode_answer(target: &mut impl Sink, tag: u32, result: i32, body: &[&[u8]]) {
    let len: usize = body.iter().map(|piece| piece.len()).sum();
    put_prefix(target, kind::ANSWER, tag, 4 + len);
    target.put(&result.to_le_bytes());
    body.iter().for_each(|piece| target.put(piece));
}

/// The body of the answer to `hello`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The caller's own domain.
    pub domain: u16,
    /// The largest length of a frame, in both directions.
    pub max_frame: u32,
    /// The most payload of a message.
    pub max_payload: u32,
    /// The most requests without an answer; more are read when there is one.
    pub max_requests: u32,
}

impl Limits {
    /// The 16 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&self.domain.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.max_frame.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.max_payload.to_le_bytes());
        bytes[12..].copy_from_slice(&self.max_requests.to_le_bytes());
        bytes
    }

    /// Reads them; more may follow in later versions.
    ///
    /// # Errors
    /// There are fewer.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Reader::new(kind::HELLO, body);
        let (domain, _) = (fields.u16()?, fields.u16()?);
        Ok(Self {
            domain,
            max_frame: fields.u32()?,
            max_payload: fields.u32()?,
            max_requests: fields.u32()?,
        })
    }
}

/// What happened to a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum What {
    /// There is something to read.
    Arrival = 1,
    /// There is room.
    Space = 2,
    /// It is gone.
    Closed = 3,
}

/// An event: what happened to which ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Notice {
    /// The ring's port.
    pub port: u32,
    /// Its partner.
    pub partner: u16,
    /// Its owner.
    pub owner: u16,
    /// What happened.
    pub what: What,
}

impl Notice {
    /// Reads an event; with it, for [`kind::EVENT_FOR`], whose it is.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(frame: &Frame<'_>) -> Result<(Option<u32>, Self), Malformed> {
        let mut fields = Reader::new(frame.kind, frame.body);
        let endpoint = match frame.kind {
            kind::EVENT => None,
            kind::EVENT_FOR => Some(fields.u32()?),
            other => return Err(Malformed::Kind(other)),
        };
        if frame.tag != 0 {
            return Err(Malformed::Tag(frame.kind));
        }
        let notice = Self {
            port: fields.u32()?,
            partner: fields.u16()?,
            owner: fields.u16()?,
            what: match fields.u8()? {
                1 => What::Arrival,
                2 => What::Space,
                3 => What::Closed,
                _ => return Err(Malformed::Field(frame.kind)),
            },
        };
        fields.end().map(|()| (endpoint, notice))
    }
}

/// Writes an event, for an endpoint of the peer if one is named.
pub fn encode_notice(target: &mut impl Sink, endpoint: Option<u32>, notice: &Notice) {
    match endpoint {
        None => put_prefix(target, kind::EVENT, 0, 9),
        Some(endpoint) => {
            put_prefix(target, kind::EVENT_FOR, 0, 13);
            target.put(&endpoint.to_le_bytes());
        }
    }
    target.put(&notice.port.to_le_bytes());
    target.put(&notice.partner.to_le_bytes());
    target.put(&notice.owner.to_le_bytes());
    target.put(&[notice.what as u8]);
}

/// A ring as `info` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingRow {
    /// The ring's port.
    pub port: u32,
    /// Its partner.
    pub partner: u16,
    /// Its owner.
    pub owner: u16,
    /// Bytes of message space.
    pub len: u32,
    /// Bytes that messages take.
    pub used: u32,
    /// How many messages those are.
    pub messages: u32,
    /// How many domains wait for room.
    pub waiting: u32,
}

impl RingRow {
    /// Bytes of a row.
    pub const SIZE: usize = 24;

    /// The 24 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&self.port.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.partner.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.owner.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.used.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.messages.to_le_bytes());
        bytes[20..].copy_from_slice(&self.waiting.to_le_bytes());
        bytes
    }

    fn decode(row: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Reader::new(kind::INFO, row);
        Ok(Self {
            port: fields.u32()?,
            partner: fields.u16()?,
            owner: fields.u16()?,
            len: fields.u32()?,
            used: fields.u32()?,
            messages: fields.u32()?,
            waiting: fields.u32()?,
        })
    }
}
