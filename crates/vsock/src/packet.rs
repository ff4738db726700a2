// SPDX-License-Identifier: Apache-2.0
//! The vsock packet header (virtio 1.3, section 5.10.6 "Device Operation").
//!
//! `virtio-vsock` has a packet type too, but it takes at most two descriptors
//! per chain; Linux chains more since 6.7 (zero-copy sends), so the device
//! walks chains itself and needs only the 44 bytes of the header by value.
//! Working on a copy also closes the window in which a guest could change a
//! field between check and use.

/// Bytes of `struct virtio_vsock_hdr`; it is packed.
pub const HEADER_LEN: usize = 44;

/// `VMADDR_CID_HOST`: how guests address their host.
pub const CID_HOST: u64 = 2;

/// `VIRTIO_VSOCK_TYPE_STREAM`, the only socket type the device offers.
pub const TYPE_STREAM: u16 = 1;

/// `VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE`: the sender of this will not receive more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_F_SEND`: the sender of this will not send more.
pub const SHUTDOWN_SEND: u32 = 2;
/// Both halves: the peer must answer with [`Op::Rst`] (section 5.10.6.6.1).
pub const SHUTDOWN_BOTH: u32 = SHUTDOWN_RECEIVE | SHUTDOWN_SEND;

/// `enum virtio_vsock_op` without its `INVALID` member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Open a stream.
    Request = 1,
    /// Accept a stream.
    Response = 2,
    /// Refuse or end a stream at once.
    Rst = 3,
    /// End one or both halves of a stream.
    Shutdown = 4,
    /// Payload.
    Rw = 5,
    /// Tell the peer how much buffer is free.
    CreditUpdate = 6,
    /// Ask the peer for a credit update.
    CreditRequest = 7,
}

impl Op {
    /// Reads an operation off the wire; `None` for values this device lacks.
    #[must_use]
    pub fn from_wire(value: u16) -> Option<Self> {
        Some(match value {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Rst,
            4 => Self::Shutdown,
            5 => Self::Rw,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// What tells a guest's live streams apart: the far end, as the guest addresses
/// it (the host or another guest), and the guest's own port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// CID of the far end.
    pub far_cid: u64,
    /// Port of the far end.
    pub far_port: u32,
    /// The guest's port.
    pub guest_port: u32,
}

/// A packet header in host byte order. Nothing in it has been checked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Sender's CID.
    pub src_cid: u64,
    /// Receiver's CID.
    pub dst_cid: u64,
    /// Sender's port.
    pub src_port: u32,
    /// Receiver's port.
    pub dst_port: u32,
    /// Payload bytes that follow the header.
    pub len: u32,
    /// Socket type.
    pub socket_type: u16,
    /// Operation, see [`Op`].
    pub op: u16,
    /// Operation-specific flags.
    pub flags: u32,
    /// Size of the sender's receive buffer for this stream.
    pub buf_alloc: u32,
    /// Bytes the sender's user has taken out of that buffer, wrapping.
    pub fwd_cnt: u32,
}

impl Header {
    /// Decodes a header. Every bit pattern is a header.
    #[must_use]
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            src_cid: u64::from_le_bytes(fields.take()),
            dst_cid: u64::from_le_bytes(fields.take()),
            src_port: u32::from_le_bytes(fields.take()),
            dst_port: u32::from_le_bytes(fields.take()),
            len: u32::from_le_bytes(fields.take()),
            socket_type: u16::from_le_bytes(fields.take()),
            op: u16::from_le_bytes(fields.take()),
            flags: u32::from_le_bytes(fields.take()),
            buf_alloc: u32::from_le_bytes(fields.take()),
            fwd_cnt: u32::from_le_bytes(fields.take()),
        }
    }

    /// Encodes the header for the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..8].copy_from_slice(&self.src_cid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.dst_cid.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.src_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.dst_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.len.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.socket_type.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.buf_alloc.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The stream it belongs to, as the guest that sent it sees it.
    #[must_use]
    pub fn key(&self) -> Key {
        Key {
            far_cid: self.dst_cid,
            far_port: self.dst_port,
            guest_port: self.src_port,
        }
    }

    /// The reset that answers this packet, or `None` where this packet is a
    /// reset itself: two ends that answer resets with resets never stop.
    #[must_use]
    pub fn reset_reply(&self) -> Option<Self> {
        (self.op != Op::Rst as u16).then_some(Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            // The sender finds its socket by type as well, so it is echoed.
            socket_type: self.socket_type,
            op: Op::Rst as u16,
            ..Self::default()
        })
    }
}

/// Takes fixed-size fields off the front of a header.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        // The sizes in `parse` add up to HEADER_LEN, so the zeros are never seen.
        let Some((field, rest)) = self.0.split_first_chunk::<N>() else {
            return [0; N];
        };
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_wire() {
        let header = Header {
            src_cid: 0x0102_0304_0506_0708,
            dst_cid: u64::MAX,
            src_port: 1,
            dst_port: u32::MAX,
            len: 0x8000_0001,
            socket_type: 0xabcd,
            op: 0x1234,
            flags: 3,
            buf_alloc: 7,
            fwd_cnt: 0xffff_fffe,
        };
        assert_eq!(Header::parse(&header.encode()), header);
        assert_eq!(header.encode()[24..28], [1, 0, 0, 0x80]);
    }

    #[test]
    fn a_reset_is_never_answered() {
        let mut header = Header {
            op: Op::Rw as u16,
            src_port: 5,
            dst_port: 6,
            ..Header::default()
        };
        let reply = header.reset_reply().unwrap();
        assert_eq!(
            (reply.op, reply.src_port, reply.dst_port),
            (Op::Rst as u16, 6, 5)
        );
        header.op = Op::Rst as u16;
        assert_eq!(header.reset_reply(), None);
    }

    #[test]
    fn only_known_operations_parse() {
        for value in 0..=u16::MAX {
            assert_eq!(
                Op::from_wire(value).map(|op| op as u16),
                (1..=7).contains(&value).then_some(value)
            );
        }
    }
}
