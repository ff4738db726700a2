// SPDX-License-Identifier: Apache-2.0
//! What the two sides say to each other: a request of 32 bytes, bytes, and an
//! answer of 48. Numbers are little-endian.
//!
//! | Request | |
//! |---|---|
//! | 0 | `inntput1` |
//! | 8 | u8 mode: 1 take bytes, 2 send bytes, 3 echo messages until the end |
//! | 9 | u8 flags: 1 with digest |
//! | 10 | u16 zero |
//! | 12 | u32 bytes of each read and write |
//! | 16 | u64 bytes to move; of each message in mode 3 |
//! | 24 | u64 zero |
//!
//! | Answer (modes 1 and 2, behind the bytes) | |
//! |---|---|
//! | 0 | u64 bytes moved |
//! | 8 | u64 nanoseconds that it took |
//! | 16 | SHA-256 of them, or zeros |

use std::io::{self, Read, Write};
use std::time::Duration;

use sha2::{Digest, Sha256};

const MAGIC: [u8; 8] = *b"inntput1";
const WITH_DIGEST: u8 = 1;

/// Largest buffer, and largest message of a ping: the other side allocates it.
pub const MOST_BUFFER: u32 = 16 << 20;

/// What the one that serves is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Read bytes.
    Take = 1,
    /// Write bytes.
    Give = 2,
    /// Write back what comes.
    Echo = 3,
}

/// The first thing on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub mode: Mode,
    pub digest: bool,
    /// At most [`MOST_BUFFER`].
    pub buffer_bytes: u32,
    /// In [`Mode::Echo`] at most [`MOST_BUFFER`].
    pub size_bytes: u64,
}

impl Request {
    pub fn encode(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = self.mode as u8;
        bytes[9] = if self.digest { WITH_DIGEST } else { 0 };
        bytes[12..16].copy_from_slice(&self.buffer_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.size_bytes.to_le_bytes());
        bytes
    }

    /// `None` where these are not a request, or one out of bounds.
    pub fn decode(bytes: &[u8; 32]) -> Option<Self> {
        let mode = match bytes[8] {
            1 => Mode::Take,
            2 => Mode::Give,
            3 => Mode::Echo,
            _ => return None,
        };
        let request = Self {
            mode,
            digest: bytes[9] & WITH_DIGEST != 0,
            buffer_bytes: u32::from_le_bytes(bytes[12..16].try_into().ok()?),
            size_bytes: u64::from_le_bytes(bytes[16..24].try_into().ok()?),
        };
        let fits = (1..=MOST_BUFFER).contains(&request.buffer_bytes)
            && (mode != Mode::Echo || request.size_bytes <= MOST_BUFFER.into());
        // Encoding it again shows that the rest is zero.
        (fits && request.encode() == *bytes).then_some(request)
    }
}

/// What one side moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    pub bytes: u64,
    pub took: Duration,
    /// All zeros where none was asked for.
    pub digest: [u8; 32],
}

impl Moved {
    pub fn encode(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        bytes[..8].copy_from_slice(&self.bytes.to_le_bytes());
        let nanos = u64::try_from(self.took.as_nanos()).unwrap_or(u64::MAX);
        bytes[8..16].copy_from_slice(&nanos.to_le_bytes());
        bytes[16..].copy_from_slice(&self.digest);
        bytes
    }

    pub fn decode(bytes: &[u8; 48]) -> Self {
        let number = |at: usize| {
            let eight = bytes
                .get(at..at + 8)
                .and_then(|slice| slice.try_into().ok());
            u64::from_le_bytes(eight.unwrap_or_default())
        };
        let mut digest = [0; 32];
        digest.copy_from_slice(&bytes[16..]);
        Self {
            bytes: number(0),
            took: Duration::from_nanos(number(8)),
            digest,
        }
    }
}

/// Writes what `request` asks for.
pub fn give(mut to: impl Write, request: &Request) -> io::Result<Moved> {
    let mut source = Source::new(request);
    let mut hash = request.digest.then(Sha256::new);
    moved(request, &mut hash, |left, hash| {
        let chunk = source.next(left);
        to.write_all(chunk)?;
        if let Some(hash) = hash {
            hash.update(chunk);
        }
        Ok(chunk.len())
    })
}

/// Reads what `request` asks for.
pub fn take(mut from: impl Read, request: &Request) -> io::Result<Moved> {
    let mut buffer = vec![0; request.buffer_bytes as usize];
    let mut hash = request.digest.then(Sha256::new);
    moved(request, &mut hash, |left, hash| {
        let room = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        match from.read(&mut buffer[..room]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                if let Some(hash) = hash {
                    hash.update(&buffer[..count]);
                }
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    })
}

fn moved(
    request: &Request,
    hash: &mut Option<Sha256>,
    mut step: impl FnMut(u64, &mut Option<Sha256>) -> io::Result<usize>,
) -> io::Result<Moved> {
    let begun = std::time::Instant::now();
    let mut left = request.size_bytes;
    while left > 0 {
        left -= step(left, hash)? as u64;
    }
    Ok(Moved {
        bytes: request.size_bytes,
        took: begun.elapsed(),
        digest: hash
            .take()
            .map(|hash| hash.finalize().into())
            .unwrap_or_default(),
    })
}

/// Bytes to send. With a digest no two blocks are the same, so that one that got
/// lost, or came twice, or in the wrong place, is seen.
struct Source {
    buffer: Vec<u8>,
    numbered: bool,
    block: u64,
}

impl Source {
    fn new(request: &Request) -> Self {
        let pattern = |at: usize| (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
        let bytes = 0..request.buffer_bytes as usize;
        Self {
            // Written to, so that its pages are there.
            buffer: bytes.map(|at| pattern(at) as u8).collect(),
            numbered: request.digest,
            block: 0,
        }
    }

    fn next(&mut self, left: u64) -> &[u8] {
        if self.numbered {
            self.block += 1;
            let count = self.buffer.len().min(8);
            self.buffer[..count].copy_from_slice(&self.block.to_le_bytes()[..count]);
        }
        let len = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(self.buffer.len());
        &self.buffer[..len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(mode: Mode, size_bytes: u64) -> Request {
        Request {
            mode,
            digest: true,
            buffer_bytes: 100,
            size_bytes,
        }
    }

    #[test]
    fn requests_read_back_and_others_are_refused() {
        let good = request(Mode::Give, 12345).encode();
        assert_eq!(Request::decode(&good), Some(request(Mode::Give, 12345)));
        // Every byte that is not as it should be, but for the sizes.
        for at in (0..12).chain(24..32) {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert_eq!(Request::decode(&bad), None, "{at}");
        }
        let mut zero = good;
        zero[12..16].fill(0);
        assert_eq!(Request::decode(&zero), None);
        let mut huge = good;
        huge[12..16].fill(255);
        assert_eq!(Request::decode(&huge), None);
        let echo = request(Mode::Echo, u64::from(MOST_BUFFER) + 1).encode();
        assert_eq!(Request::decode(&echo), None);
    }

    #[test]
    fn answers_read_back() {
        let moved = Moved {
            bytes: 1 << 40,
            took: Duration::from_nanos(u64::MAX),
            digest: [7; 32],
        };
        assert_eq!(Moved::decode(&moved.encode()), moved);
    }

    #[test]
    fn both_sides_see_the_same_bytes() {
        for size in [1, 99, 100, 101, 4321] {
            let mut wire = Vec::new();
            let given = give(&mut wire, &request(Mode::Take, size)).unwrap();
            assert_eq!(wire.len() as u64, size);
            let taken = take(wire.as_slice(), &request(Mode::Take, size)).unwrap();
            assert_eq!((given.bytes, given.digest), (taken.bytes, taken.digest));
            assert_eq!(given.digest, <[u8; 32]>::from(Sha256::digest(&wire)));
        }
    }

    #[test]
    fn blocks_that_change_places_change_the_digest() {
        let mut wire = Vec::new();
        let given = give(&mut wire, &request(Mode::Take, 300)).unwrap();
        let swapped = [&wire[100..200], &wire[..100], &wire[200..]].concat();
        let taken = take(swapped.as_slice(), &request(Mode::Take, 300)).unwrap();
        assert_ne!(given.digest, taken.digest);
        assert!(take(&wire[..299], &request(Mode::Take, 300)).is_err());
    }
}
