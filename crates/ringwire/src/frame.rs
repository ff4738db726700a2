// SPDX-License-Identifier: Apache-2.0
//! One frame: `u32 length`, `u8 kind`, `u32 tag`, body; little endian. The length
//! is that of what follows it.

/// The most payload that one message has on this carrier, bytes.
pub const MAX_PAYLOAD: u32 = 1 << 20;
/// The largest value of a frame's length.
pub const MAX_FRAME: u32 = MAX_PAYLOAD + (64 << 10);
/// Bytes of kind and tag, the smallest value of a frame's length.
const HEAD: u32 = 5;
/// Bytes in front of a body, the length included.
pub const PREFIX: usize = 9;
/// The most bytes of a body.
pub const MAX_BODY: u32 = MAX_FRAME - HEAD;

/// Bytes that no client or keeper sends: whoever did is not spoken to further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The length is below 5 or above [`MAX_FRAME`].
    #[error("a frame's length is {0}")]
    Length(u32),
    /// The body ends before its fields do, or goes on after them.
    #[error("a frame of kind {0} has a body of another size")]
    Body(u8),
    /// A request with tag 0, or an event with another.
    #[error("a frame of kind {0} has an impossible tag")]
    Tag(u8),
    /// A field has a value that means nothing.
    #[error("a frame of kind {0} has a field without meaning")]
    Field(u8),
    /// It does not belong where it came.
    #[error("a frame of kind {0} does not belong here")]
    Kind(u8),
}

/// A whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is; see [`kind`](crate::kind).
    pub kind: u8,
    /// The request's number, which its answer repeats; 0 in events.
    pub tag: u32,
    /// The rest.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of the frame with its length.
    #[must_use]
    pub const fn size(&self) -> usize {
        PREFIX + self.body.len()
    }
}

/// The first frame of `bytes`; `None` while it is not there as a whole.
///
/// # Errors
/// [`Malformed::Length`], as soon as the length is known.
pub fn split(bytes: &[u8]) -> Result<Option<Frame<'_>>, Malformed> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length);
    if !(HEAD..=MAX_FRAME).contains(&length) {
        return Err(Malformed::Length(length));
    }
    // On any machine with Unix sockets a usize holds these.
    let Some(whole) = rest.get(..length as usize) else {
        return Ok(None);
    };
    let [kind, t0, t1, t2, t3, body @ ..] = whole else {
        return Ok(None);
    };
    Ok(Some(Frame {
        kind: *kind,
        tag: u32::from_le_bytes([*t0, *t1, *t2, *t3]),
        body,
    }))
}

/// Where frames are written to.
pub trait Sink {
    /// Appends.
    fn put(&mut self, bytes: &[u8]);
}

#[cfg(feature = "alloc")]
impl Sink for alloc::vec::Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Writes what stands before a body of `len` bytes.
pub(crate) fn put_prefix(target: &mut impl Sink, kind: u8, tag: u32, len: usize) {
    // A body above the limit gets a length that every reader refuses.
    let length = u32::try_from(len).unwrap_or(u32::MAX).saturating_add(HEAD);
    target.put(&length.to_le_bytes());
    target.put(&[kind]);
    target.put(&tag.to_le_bytes());
}
