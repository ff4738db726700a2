// SPDX-License-Identifier: Apache-2.0
//! The framing: `u32` little-endian length, then a protobuf message.
//!
//! [`FrameDecoder`] takes bytes in pieces of any size and gives messages back.
//! It never allocates on the word of a length field alone: the buffer grows
//! with the bytes that really arrived.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;

/// Bytes of the length field.
pub const HEADER_LEN: usize = 4;

/// Largest first message of a session: it carries argv and the environment.
pub const SETUP_LIMIT: usize = 1 << 20;

/// Largest message after the first.
pub const MESSAGE_LIMIT: usize = 64 << 10;

/// Largest payload we put into one data message. Upstream peers refuse messages
/// over 4096 bytes, and fill them with at most 4000 bytes of data.
pub const DATA_LIMIT: usize = 4000;

/// Why bytes are not a frame of ours. The stream has no way to find the next
/// frame after one of these, so the connection must end.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length field announces more than this stream allows.
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// Announced length in bytes.
        length: u64,
        /// Limit in force.
        limit: usize,
    },
    /// The frame's content is not the expected protobuf message.
    #[error("a frame is not a valid message: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// Cuts a byte stream into frames.
#[derive(Debug)]
pub struct FrameDecoder {
    buffer: BytesMut,
    limit: usize,
}

impl FrameDecoder {
    /// A decoder that refuses frames of more than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            limit,
        }
    }

    /// Changes the limit for the frames that follow.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Appends bytes that arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes held that no frame has been made of yet.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole frame's content; `None` when more bytes are needed.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`] as soon as an oversize length field is seen.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(header) = self.buffer.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let announced = u32::from_le_bytes(*header);
        let length = match usize::try_from(announced) {
            Ok(length) if length <= self.limit => length,
            _ => {
                return Err(FrameError::TooLong {
                    length: announced.into(),
                    limit: self.limit,
                });
            }
        };
        if self.buffer.len() - HEADER_LEN < length {
            return Ok(None);
        }
        self.buffer.advance(HEADER_LEN);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// The next message; `None` when more bytes are needed.
    ///
    /// # Errors
    ///
    /// See [`FrameError`].
    pub fn next_message<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        match self.next_frame()? {
            Some(frame) => Ok(Some(M::decode(frame)?)),
            None => Ok(None),
        }
    }
}

/// One message as a frame.
///
/// # Errors
///
/// [`FrameError::TooLong`] when the message is over `limit`.
pub fn encode<M: Message>(message: &M, limit: usize) -> Result<Vec<u8>, FrameError> {
    let length = message.encoded_len();
    let too_long = || FrameError::TooLong {
        length: length as u64,
        limit,
    };
    if length > limit {
        return Err(too_long());
    }
    let header = u32::try_from(length).map_err(|_| too_long())?.to_le_bytes();
    let mut frame = Vec::with_capacity(HEADER_LEN + length);
    frame.extend_from_slice(&header);
    // A Vec grows, so the only error of `encode` (no space) cannot happen.
    message.encode(&mut frame).map_err(|_| too_long())?;
    Ok(frame)
}

#[cfg(test)]
mod tests;
