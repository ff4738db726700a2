// SPDX-License-Identifier: Apache-2.0
//! Numbers and layouts of the Argo ABI (`xen/include/public/argo.h`), little
//! endian as on every machine that runs it, and the geometry they imply.
//!
//! A reader of a ring sees these bytes; nothing else in the crate knows offsets.

use crate::Errno;

/// In the place of a partner: any domain. As a sender's own id: "mine".
pub const DOMID_ANY: u16 = 0x7FF4;
/// Ids from here on name no domain (`DOMID_FIRST_RESERVED`).
pub const FIRST_RESERVED_ID: u16 = 0x7FF0;
/// Messages start and end at multiples of this.
pub const SLOT: u32 = 16;
/// The largest ring, in bytes of message space.
pub const MAX_RING: u32 = 0x100_0000;
/// The smallest ring: a header, a slot of payload, a slot that stays free.
pub const MIN_RING: u32 = 3 * SLOT;
/// The most payload a message may have: the largest ring's.
pub const MAX_MESSAGE: u32 = MAX_RING - HEADER - SLOT;
/// The most pieces one message is gathered from.
pub const MAX_PIECES: usize = 8;
/// The most entries of one notify.
pub const MAX_ENTRIES: usize = 256;
/// How many domains may wait in a ring's line.
pub const MAX_WAITERS: usize = 32;
/// Bytes of [`MessageHeader`].
pub const HEADER: u32 = 16;
/// Bytes in front of the message space: the two pointers and what is reserved.
pub const RING_HEAD: u32 = 64;
/// Bytes of the pages that callers count their rings in.
pub const PAGE: u32 = 4096;
/// `register_ring`: refuse to register again.
pub const FAIL_EXIST: u32 = 1;

/// Answers of a notify entry.
pub mod flags {
    /// There is a ring that takes the caller's messages.
    pub const EXISTS: u16 = 1;
    /// It is a wildcard ring.
    pub const SHARED: u16 = 2;
    /// It holds no message.
    pub const EMPTY: u16 = 4;
    /// A message of the size asked for would be taken now.
    pub const SUFFICIENT: u16 = 8;
    /// A message of that size will never be taken.
    pub const EMSGSIZE: u16 = 0x10;
    /// There is no room, and the line is full.
    pub const EBUSY: u16 = 0x20;
}

/// `len` rounded up to whole slots. Callers bound `len` by [`MAX_RING`].
#[must_use]
pub const fn slots(len: u32) -> u32 {
    len.saturating_add(SLOT - 1) & !(SLOT - 1)
}

/// What a message with this payload takes of a ring, in bytes.
#[must_use]
pub const fn cost(payload: u32) -> u32 {
    slots(payload).saturating_add(HEADER)
}

/// The pages a ring of `len` bytes needs, its head included.
#[must_use]
pub const fn pages(len: u32) -> u32 {
    slots(len).saturating_add(RING_HEAD).div_ceil(PAGE)
}

/// The operations, by their number in the hypercall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `register_ring`
    Register,
    /// `unregister_ring`
    Unregister,
    /// `sendv`
    Send,
    /// `notify`
    Notify,
}

impl Command {
    /// Reads a raw call: its number and the two arguments that are numbers.
    ///
    /// # Errors
    /// `Einval`: arguments above 32 bits, or used where the operation has none,
    /// or too many pieces. `Eopnotsupp`: no such operation.
    pub fn from_call(number: u32, arg3: u64, arg4: u64) -> Result<Self, Errno> {
        if arg3 > u64::from(u32::MAX) || arg4 > u64::from(u32::MAX) {
            return Err(Errno::Einval);
        }
        let command = match number {
            1 => Self::Register,
            2 => Self::Unregister,
            3 => Self::Send,
            4 => Self::Notify,
            _ => return Err(Errno::Eopnotsupp),
        };
        let fits = match command {
            Self::Register => true,
            Self::Send => arg3 <= MAX_PIECES as u64,
            Self::Unregister | Self::Notify => arg3 == 0 && arg4 == 0,
        };
        if fits {
            Ok(command)
        } else {
            Err(Errno::Einval)
        }
    }
}

/// `struct xen_argo_addr`, 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Address {
    /// The port.
    pub port: u32,
    /// The domain's id.
    pub domain: u16,
    /// Must be zero where a call looks at it.
    pub pad: u16,
}

impl Address {
    /// An address with zero padding.
    #[must_use]
    pub const fn new(domain: u16, port: u32) -> Self {
        let pad = 0;
        Self { port, domain, pad }
    }

    /// The 8 bytes.
    #[must_use]
    pub fn encode(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.port.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.domain.to_le_bytes());
        bytes[6..].copy_from_slice(&self.pad.to_le_bytes());
        bytes
    }

    /// Reads 8 bytes; every value is an address.
    #[must_use]
    pub const fn decode(bytes: [u8; 8]) -> Self {
        let [p0, p1, p2, p3, d0, d1, z0, z1] = bytes;
        Self {
            port: u32::from_le_bytes([p0, p1, p2, p3]),
            domain: u16::from_le_bytes([d0, d1]),
            pad: u16::from_le_bytes([z0, z1]),
        }
    }
}

/// `struct xen_argo_ring_message_header`, 16 bytes: what stands before each
/// message in a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageHeader {
    /// Bytes of header and payload, without the padding to the next slot.
    pub len: u32,
    /// Who sent it, as the mediator knows it.
    pub source: Address,
    /// The sender's word on what it is.
    pub message_type: u32,
}

impl MessageHeader {
    /// Bytes of payload.
    #[must_use]
    pub const fn payload(&self) -> u32 {
        self.len.saturating_sub(HEADER)
    }

    /// The 16 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        bytes[..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.source.encode());
        bytes[12..].copy_from_slice(&self.message_type.to_le_bytes());
        bytes
    }

    /// Reads 16 bytes.
    ///
    /// # Errors
    /// `Einval`: a length that is shorter than the header or longer than any
    /// message, or padding that is not zero.
    pub fn decode(bytes: &[u8; HEADER as usize]) -> Result<Self, Errno> {
        let [l0, l1, l2, l3, source @ .., t0, t1, t2, t3] = *bytes;
        let header = Self {
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            source: Address::decode(source),
            message_type: u32::from_le_bytes([t0, t1, t2, t3]),
        };
        let lengths = HEADER..=HEADER + MAX_MESSAGE;
        if lengths.contains(&header.len) && header.source.pad == 0 {
            Ok(header)
        } else {
            Err(Errno::Einval)
        }
    }
}

/// `struct xen_argo_register_ring` and the two numbers that come with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisterRing {
    /// The port.
    pub port: u32,
    /// The one sender's id, or [`DOMID_ANY`].
    pub partner: u16,
    /// Must be zero.
    pub pad: u16,
    /// Bytes of message space.
    pub len: u32,
    /// [`pages`] of `len`. The memory is the mediator's; a caller that counts
    /// otherwise is refused as Xen would refuse it.
    pub pages: u32,
    /// 0 or [`FAIL_EXIST`].
    pub flags: u32,
}

impl RegisterRing {
    /// A ring that is well formed if `len` is.
    #[must_use]
    pub const fn new(port: u32, partner: u16, len: u32) -> Self {
        Self {
            port,
            partner,
            pad: 0,
            len,
            pages: pages(len),
            flags: 0,
        }
    }

    /// Whether any domain could register this.
    #[must_use]
    pub const fn well_formed(&self) -> bool {
        self.flags & !FAIL_EXIST == 0
            && self.pad == 0
            && self.len >= MIN_RING
            && self.len <= MAX_RING
            && self.len % SLOT == 0
            && self.pages == pages(self.len)
    }
}

/// `struct xen_argo_unregister_ring`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnregisterRing {
    /// The port.
    pub port: u32,
    /// As it was registered.
    pub partner: u16,
    /// Must be zero.
    pub pad: u16,
}

/// `struct xen_argo_ring_data_ent`, 20 bytes: one question of a notify and its
/// answer. The answer is in `flags` and, if there is a ring, `max_message_size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RingData {
    /// The ring's owner and port; its padding is not looked at.
    pub ring: Address,
    /// See [`flags`].
    pub flags: u16,
    /// The payload the caller wants to send.
    pub space_required: u32,
    /// The most payload that the ring ever takes from the caller.
    pub max_message_size: u32,
}

impl RingData {
    /// Asks whether `space_required` bytes would be taken at `ring`.
    #[must_use]
    pub const fn new(ring: Address, space_required: u32) -> Self {
        Self {
            ring,
            flags: 0,
            space_required,
            max_message_size: 0,
        }
    }

    /// The 20 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&self.ring.encode());
        bytes[8..10].copy_from_slice(&self.flags.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.space_required.to_le_bytes());
        bytes[16..].copy_from_slice(&self.max_message_size.to_le_bytes());
        bytes
    }

    /// Reads 20 bytes; every value is a question.
    #[must_use]
    pub const fn decode(bytes: [u8; 20]) -> Self {
        let [ring @ .., f0, f1, _, _, s0, s1, s2, s3, m0, m1, m2, m3] = bytes;
        Self {
            ring: Address::decode(ring),
            flags: u16::from_le_bytes([f0, f1]),
            space_required: u32::from_le_bytes([s0, s1, s2, s3]),
            max_message_size: u32::from_le_bytes([m0, m1, m2, m3]),
        }
    }
}
