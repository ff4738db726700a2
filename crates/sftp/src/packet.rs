// SPDX-License-Identifier: Apache-2.0
//! Packets: a `u32` big-endian length, then that many bytes; and their fields.

use std::io::{self, Read};

/// Largest packet. OpenSSH sends and accepts the same.
pub const PACKET_LIMIT: usize = 256 << 10;

/// A packet that does not hold what it must, or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a packet that cannot be read")]
pub struct Malformed;

/// Takes fields off the front of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A number of four bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// A number of eight bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }

    /// A length and that many bytes.
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// Reads one packet into `buffer`; `false` at the end of the stream.
///
/// Nothing is reserved on the word of a length over the limit.
pub fn read_packet(input: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut header = [0; 4];
    let mut filled = 0;
    while let Some(rest) = header.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
    if length == 0 || length > PACKET_LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a packet of {length} bytes; 1 to {PACKET_LIMIT} is allowed"),
        ));
    }
    buffer.clear();
    buffer.resize(length, 0);
    input.read_exact(buffer)?;
    Ok(true)
}

/// A packet in the making; the length is put in front at the end.
#[derive(Debug)]
pub struct Builder(Vec<u8>);

impl Builder {
    /// A packet of this type.
    pub fn new(kind: u8) -> Self {
        Self(vec![0, 0, 0, 0, kind])
    }

    /// Adds a number of four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Adds a number of eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Adds a length and these bytes.
    pub fn string(&mut self, bytes: &[u8]) -> &mut Self {
        // What we build is bounded by PACKET_LIMIT.
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend(bytes);
        self
    }

    /// How many bytes it has so far.
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Replaces the number that begins `offset` bytes into the packet's content.
    pub fn patch_u32(&mut self, offset: usize, value: u32) {
        if let Some(place) = self.0.get_mut(4 + offset..8 + offset) {
            place.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// The finished packet, with its length.
    pub fn finish(&mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len().saturating_sub(4)).unwrap_or(u32::MAX);
        if let Some(place) = self.0.get_mut(..4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_bounded_and_whole() {
        let mut buffer = Vec::new();
        assert!(!read_packet(&mut &b""[..], &mut buffer).unwrap());
        assert!(read_packet(&mut &b"\0\0\0\x02ab"[..], &mut buffer).unwrap());
        assert_eq!(buffer, b"ab");
        for bad in [
            &b"\0\0"[..],
            b"\0\0\0\0",
            b"\0\0\0\x05ab",
            b"\xff\xff\xff\xffab",
            b"\0\x04\0\x01ab",
        ] {
            assert!(read_packet(&mut &*bad, &mut buffer).is_err(), "{bad:?}");
        }
        assert!(buffer.capacity() <= PACKET_LIMIT);
    }

    #[test]
    fn fields_never_reach_beyond_the_packet() {
        let mut fields = Fields::new(b"\0\0\0\x03abcd");
        assert_eq!(fields.string(), Ok(&b"abc"[..]));
        assert_eq!(fields.u32(), Err(Malformed));
        assert_eq!(fields.u8(), Ok(b'd'));
        assert_eq!(Fields::new(b"\xff\xff\xff\xff").string(), Err(Malformed));
    }
}
