// SPDX-License-Identifier: Apache-2.0
//! Plays QEMU and the guest's driver: real memfd memory, real rings, and the
//! vhost-user protocol over a socket pair.
#![allow(
    dead_code,
    unused_imports,
    reason = "every test binary uses a part of it"
)]

use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use inn_vsock::packet::{CID_HOST, HEADER_LEN, Header, Op, TYPE_STREAM};
use inn_vsock::{Config, VsockDevice};
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

mod host;
mod ring;

pub use host::{eventually, fd, fill, read_all, read_line};
pub use ring::Ring;

pub const CID: u64 = 42;
pub const SLOTS: u16 = 32;
const SIZE: u16 = SLOTS * 2;
const MEMORY: usize = 16 << 20;
const RX_LEN: u32 = 4096;
const SLOT_BYTES: u64 = 0x1_1000;
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;

pub struct Guest {
    pub device: VsockDevice,
    pub frontend: Frontend,
    pub memory: GuestMemoryMmap<()>,
    pub rx: Ring,
    pub tx: Ring,
    /// Put each RX buffer back as soon as it was read.
    pub repost: bool,
    /// What outgoing packets say about the guest's buffer.
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
    pub cid: u64,
    /// Whom packets go to and are expected from.
    pub far_cid: u64,
    pub dir: tempfile::TempDir,
}

pub struct Options {
    pub max_connections: usize,
    pub rx_buffers: u16,
    pub cid: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_connections: 64,
            rx_buffers: SLOTS,
            cid: CID,
        }
    }
}

impl Guest {
    pub fn new() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let config = Config {
            guest_cid: options.cid,
            hybrid_path: path.to_str().unwrap().into(),
            max_connections: options.max_connections,
        };
        let device = VsockDevice::start(config, theirs.into(), listener.into()).unwrap();
        let file =
            File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(MEMORY as u64).unwrap();
        let ranges = [(GuestAddress(0), MEMORY, Some(FileOffset::new(file, 0)))];
        let memory = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
        let mut guest = Self {
            device,
            frontend: Frontend::from_stream(ours, 3),
            memory,
            rx: Ring::new(0),
            tx: Ring::new(1),
            repost: true,
            buf_alloc: 1 << 20,
            fwd_cnt: 0,
            cid: options.cid,
            far_cid: CID_HOST,
            dir,
        };
        guest.negotiate();
        guest.start_rings();
        guest.post_rx(options.rx_buffers);
        guest
    }

    fn negotiate(&mut self) {
        self.frontend.set_owner().unwrap();
        let features = self.frontend.get_features().unwrap();
        let wanted = VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK;
        assert!(
            self.frontend
                .get_protocol_features()
                .unwrap()
                .contains(wanted)
        );
        self.frontend.set_protocol_features(wanted).unwrap();
        self.frontend
            .set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
        self.frontend.set_features(features).unwrap();
        let regions: Vec<_> = self
            .memory
            .iter()
            .map(|region| VhostUserMemoryRegionInfo::from_guest_region(region).unwrap())
            .collect();
        self.frontend.set_mem_table(&regions).unwrap();
    }

    /// Sets the rings up as a driver does that just started.
    pub fn start_rings(&mut self) {
        let host = self.memory.get_host_address(GuestAddress(0)).unwrap() as u64;
        for index in 0..2 {
            let ring = if index == 0 {
                &mut self.rx
            } else {
                &mut self.tx
            };
            (ring.avail, ring.seen) = (0, 0);
            self.memory
                .write_slice(&[0; 0x6000], GuestAddress(ring.base))
                .unwrap();
            self.frontend.set_vring_num(index, SIZE).unwrap();
            let config = VringConfigData {
                queue_max_size: SIZE,
                queue_size: SIZE,
                flags: 0,
                desc_table_addr: host + ring.base,
                used_ring_addr: host + ring.used_addr(),
                avail_ring_addr: host + ring.avail_addr(),
                log_addr: None,
            };
            self.frontend.set_vring_addr(index, &config).unwrap();
            self.frontend.set_vring_base(index, 0).unwrap();
            self.frontend.set_vring_call(index, &ring.call).unwrap();
            self.frontend.set_vring_kick(index, &ring.kick).unwrap();
            self.frontend.set_vring_enable(index, true).unwrap();
        }
    }

    // ---- rings -------------------------------------------------------------

    pub fn write_descriptor(
        &self,
        ring: &Ring,
        index: u16,
        addr: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        let at = GuestAddress(ring.base + u64::from(index) * 16);
        let mut raw = [0; 16];
        raw[0..8].copy_from_slice(&addr.to_le_bytes());
        raw[8..12].copy_from_slice(&len.to_le_bytes());
        raw[12..14].copy_from_slice(&flags.to_le_bytes());
        raw[14..16].copy_from_slice(&next.to_le_bytes());
        self.memory.write_slice(&raw, at).unwrap();
    }

    fn make_available(memory: &GuestMemoryMmap<()>, ring: &mut Ring, head: u16) {
        let entry = ring.avail_addr() + 4 + u64::from(ring.avail % SIZE) * 2;
        memory.write_obj(head, GuestAddress(entry)).unwrap();
        ring.avail = ring.avail.wrapping_add(1);
        memory
            .store(
                ring.avail,
                GuestAddress(ring.avail_addr() + 2),
                std::sync::atomic::Ordering::SeqCst,
            )
            .unwrap();
        ring.kick.write(1).unwrap();
    }

    fn used(&self, ring: &Ring) -> u16 {
        self.memory
            .load(
                GuestAddress(ring.used_addr() + 2),
                std::sync::atomic::Ordering::SeqCst,
            )
            .unwrap()
    }

    /// Offers RX buffers: a header descriptor and a 4 KiB one, as Linux 6.1.
    pub fn post_rx(&mut self, count: u16) {
        for _ in 0..count {
            let slot = self.rx.avail % SLOTS;
            self.post_rx_slot(slot);
        }
    }

    fn post_rx_slot(&mut self, slot: u16) {
        let at = self.rx.buffers + u64::from(slot) * SLOT_BYTES;
        self.write_descriptor(
            &self.rx,
            slot * 2,
            at,
            HEADER_LEN as u32,
            WRITE | NEXT,
            slot * 2 + 1,
        );
        self.write_descriptor(&self.rx, slot * 2 + 1, at + 64, RX_LEN, WRITE, 0);
        Self::make_available(&self.memory, &mut self.rx, slot * 2);
    }

    /// Puts a chain of descriptors 0, 1, ... on the TX queue as it stands.
    pub fn send_chain(&mut self, head: u16) {
        Self::make_available(&self.memory, &mut self.tx, head);
    }

    pub fn wait_tx(&mut self) {
        self.tx.seen = self.tx.avail;
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.used(&self.tx) != self.tx.avail {
            assert!(
                Instant::now() < deadline,
                "the device does not take TX chains"
            );
            std::thread::yield_now();
        }
    }

    /// Sends raw bytes as one packet and waits until the device took it.
    pub fn send_raw(&mut self, header: &Header, payload: &[u8]) {
        let slot = self.tx.avail % SLOTS;
        let at = self.tx.buffers + u64::from(slot) * SLOT_BYTES;
        self.memory
            .write_slice(&header.encode(), GuestAddress(at))
            .unwrap();
        let more = if payload.is_empty() { 0 } else { NEXT };
        self.write_descriptor(
            &self.tx,
            slot * 2,
            at,
            HEADER_LEN as u32,
            more,
            slot * 2 + 1,
        );
        if !payload.is_empty() {
            self.memory
                .write_slice(payload, GuestAddress(at + 64))
                .unwrap();
            self.write_descriptor(&self.tx, slot * 2 + 1, at + 64, payload.len() as u32, 0, 0);
        }
        self.send_chain(slot * 2);
        self.wait_tx();
    }

    // ---- packets -----------------------------------------------------------

    pub fn header(&self, op: Op, guest_port: u32, host_port: u32) -> Header {
        Header {
            src_cid: self.cid,
            dst_cid: self.far_cid,
            src_port: guest_port,
            dst_port: host_port,
            len: 0,
            socket_type: TYPE_STREAM,
            op: op as u16,
            flags: 0,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.fwd_cnt,
        }
    }

    pub fn send(&mut self, op: Op, guest_port: u32, host_port: u32) {
        let header = self.header(op, guest_port, host_port);
        self.send_raw(&header, &[]);
    }

    pub fn shutdown(&mut self, guest_port: u32, host_port: u32, flags: u32) {
        let header = Header {
            flags,
            ..self.header(Op::Shutdown, guest_port, host_port)
        };
        self.send_raw(&header, &[]);
    }

    pub fn send_data(&mut self, guest_port: u32, host_port: u32, payload: &[u8]) {
        let header = Header {
            len: payload.len() as u32,
            ..self.header(Op::Rw, guest_port, host_port)
        };
        self.send_raw(&header, payload);
    }

    pub fn try_recv(&mut self, patience: Duration) -> Option<(Header, Vec<u8>)> {
        let deadline = Instant::now() + patience;
        while self.used(&self.rx) == self.rx.seen {
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::yield_now();
        }
        let entry = self.rx.used_addr() + 4 + u64::from(self.rx.seen % SIZE) * 8;
        let head: u32 = self.memory.read_obj(GuestAddress(entry)).unwrap();
        let len: u32 = self.memory.read_obj(GuestAddress(entry + 4)).unwrap();
        self.rx.seen = self.rx.seen.wrapping_add(1);
        let slot = u16::try_from(head / 2).unwrap();
        let at = self.rx.buffers + u64::from(slot) * SLOT_BYTES;
        let mut raw = [0; HEADER_LEN];
        self.memory.read_slice(&mut raw, GuestAddress(at)).unwrap();
        let header = Header::parse(&raw);
        assert_eq!(len, HEADER_LEN as u32 + header.len, "used length");
        let mut payload = vec![0; header.len as usize];
        self.memory
            .read_slice(&mut payload, GuestAddress(at + 64))
            .unwrap();
        if self.repost {
            self.post_rx_slot(slot);
        }
        Some((header, payload))
    }

    pub fn recv(&mut self) -> (Header, Vec<u8>) {
        self.try_recv(Duration::from_secs(5))
            .expect("a packet from the device")
    }

    /// Receives the next packet, which must be `op`.
    pub fn expect(&mut self, op: Op) -> (Header, Vec<u8>) {
        let (header, payload) = self.recv();
        assert_eq!(Op::from_wire(header.op), Some(op), "{header:?}");
        assert_eq!((header.src_cid, header.dst_cid), (self.far_cid, self.cid));
        (header, payload)
    }

    /// Receives packets until one is `op`.
    pub fn expect_after_others(&mut self, op: Op) -> Header {
        loop {
            let (header, _) = self.recv();
            if Op::from_wire(header.op) == Some(op) {
                return header;
            }
        }
    }

    pub fn expect_silence(&mut self) {
        assert_eq!(self.try_recv(Duration::from_millis(50)), None);
    }

    /// Receives payload of one stream until `count` bytes are there.
    pub fn recv_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < count {
            let (header, payload) = self.recv();
            if header.op == Op::Rw as u16 {
                bytes.extend(payload);
            }
        }
        bytes
    }
}

impl Guest {
    /// What QEMU does when the guest resets the device or is paused.
    pub fn stop_ring(&mut self, index: usize) -> u32 {
        self.frontend.set_vring_enable(index, false).unwrap();
        self.frontend.get_vring_base(index).unwrap()
    }

    /// What QEMU does when a paused guest goes on.
    pub fn resume_rings(&mut self, bases: [u32; 2]) {
        for (index, base) in bases.into_iter().enumerate() {
            let ring = if index == 0 { &self.rx } else { &self.tx };
            self.frontend
                .set_vring_base(index, u16::try_from(base).unwrap())
                .unwrap();
            self.frontend.set_vring_call(index, &ring.call).unwrap();
            self.frontend.set_vring_kick(index, &ring.kick).unwrap();
            self.frontend.set_vring_enable(index, true).unwrap();
        }
    }
}
