// SPDX-License-Identifier: Apache-2.0
//! An engine without a thread and without QEMU, driven by arbitrary bytes.
//!
//! Only built for `fuzz/`, which asks for the feature, and for the test that plays
//! what the fuzzer found.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use crate::chain::Memory;
use crate::config::Config;
use crate::engine::{Engine, RX, TX};
use crate::muxer::Muxer;
use crate::packet::{CID_HOST, HEADER_LEN};
use crate::peers::{Decisions, Peer};
use crate::poller::{Poller, Token};

const CID: u64 = 3;
/// Another guest; the service's socket is its device's too.
const PEER: u64 = 4;
const SIZE: u16 = 16;
const MEMORY: usize = 1 << 20;
const MAX_STREAMS: usize = 4;
/// A pass handles at most 256 chains, and no more than these are offered.
const MAX_PASSES: usize = 64;

/// A guest that obeys the fuzzer, and a host service that obeys it too.
#[derive(Debug)]
pub struct Guest {
    engine: Engine,
    memory: Arc<Memory>,
    service: UnixListener,
    sockets: Vec<UnixStream>,
    avail: [u16; 2],
}

/// Takes numbers off the input; `None` at its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
}

impl Guest {
    /// Sets up rings in fresh memory; the service listens in `folder`.
    pub fn new(folder: &Path) -> Option<Self> {
        let hybrid_path = folder.join("s").to_str()?.to_owned();
        let service = UnixListener::bind(format!("{hybrid_path}_1")).ok()?;
        service.set_nonblocking(true).ok()?;
        let memory = Arc::new(Memory::from_ranges(&[(GuestAddress(0), MEMORY)]).ok()?);
        let config = Config {
            guest_cid: CID,
            hybrid_path,
            max_connections: MAX_STREAMS,
        };
        let mut muxer = Muxer::new(
            config,
            Arc::default(),
            Arc::new(Poller::new().ok()?),
            Arc::new(Decisions::new().ok()?),
        );
        let peer = Peer {
            path: format!("{}_1", folder.join("s").to_str()?),
            connect: vec![0..=2],
            accept: vec![0..=2],
            max_streams: 2,
        };
        muxer.replace_peers(HashMap::from([(PEER, peer)]), HashMap::new());
        let mut engine = Engine::new(muxer).ok()?;
        engine.memory = Some(memory.clone());
        for (index, ring) in engine.rings.iter_mut().take(2).enumerate() {
            let base = Self::base(index);
            ring.set_size(u32::from(SIZE)).ok()?;
            ring.set_addresses(&memory, base, base + 0x400, base + 0x800)
                .ok()?;
            ring.set_event_idx(true);
            ring.enabled = true;
            ring.start(Some(&memory));
        }
        Some(Self {
            engine,
            memory,
            service,
            sockets: Vec::new(),
            avail: [0; 2],
        })
    }

    fn base(index: usize) -> u64 {
        0x1000 * (index as u64 + 1)
    }

    /// Plays the whole input.
    pub fn play(&mut self, bytes: &[u8]) {
        let mut input = Input(bytes);
        while let Some([action]) = input.take() {
            if self.act(action, &mut input).is_none() {
                break;
            }
            self.run();
        }
    }

    fn act(&mut self, action: u8, input: &mut Input<'_>) -> Option<()> {
        let queue = usize::from(action & 1);
        match action >> 1 & 7 {
            0 => {
                let [at] = input.take()?;
                let raw: [u8; 16] = input.take()?;
                self.write(Self::base(queue) + u64::from(at % 16) * 16, &raw);
            }
            1 => self.offer(queue, u16::from_le_bytes(input.take()?)),
            2 => self.avail[queue] = u16::from_le_bytes(input.take()?),
            3 | 4 => self.offer_packet(input)?,
            5 => self.offer_buffer(input)?,
            6 => self.use_sockets(queue),
            _ => self.sockets.clear(),
        }
        Some(())
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let _ = self.memory.write_slice(bytes, GuestAddress(at));
    }

    fn descriptor(&self, queue: usize, at: u16, addr: u64, len: u32, flags: u16) {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&addr.to_le_bytes());
        raw[8..12].copy_from_slice(&len.to_le_bytes());
        raw[12..14].copy_from_slice(&flags.to_le_bytes());
        self.write(Self::base(queue) + u64::from(at) * 16, &raw);
    }

    fn offer(&mut self, queue: usize, head: u16) {
        let slot = u64::from(self.avail[queue] % SIZE);
        self.avail[queue] = self.avail[queue].wrapping_add(1);
        self.write(Self::base(queue) + 0x404 + slot * 2, &head.to_le_bytes());
        self.write(Self::base(queue) + 0x402, &self.avail[queue].to_le_bytes());
    }

    /// A well-formed chain with a header out of the input. Few ports, so that
    /// packets meet streams, and mostly the right CIDs.
    fn offer_packet(&mut self, input: &mut Input<'_>) -> Option<()> {
        let mut header: [u8; HEADER_LEN] = input.take()?;
        if header[7] != 0xff {
            let far = if header[6] & 1 == 0 { CID_HOST } else { PEER };
            header[..16].copy_from_slice(&[CID.to_le_bytes(), far.to_le_bytes()].concat());
        }
        let ports = [
            header[16] & 3,
            0,
            0,
            0,
            header[20] & 1,
            0,
            0,
            header[23] & 0x40,
        ];
        header[16..24].copy_from_slice(&ports);
        let middle = [header[26] & 1, 0, 1, 0, header[30] & 15, 0];
        header[26..32].copy_from_slice(&middle);
        self.write(0x8_0000, &header);
        self.descriptor(TX, 0, 0x8_0000, 0x2_0000, 0);
        self.offer(TX, 0);
        Some(())
    }

    fn offer_buffer(&mut self, input: &mut Input<'_>) -> Option<()> {
        let len = u32::from(u16::from_le_bytes(input.take()?));
        let at = self.avail[RX] % SIZE;
        self.descriptor(RX, at, 0xc_0000, len, 2);
        self.offer(RX, at);
        Some(())
    }

    fn use_sockets(&mut self, reading: usize) {
        if let Ok((socket, _)) = self.service.accept() {
            let _ = socket.set_nonblocking(true);
            // A device that answers at once, if it is one that asks.
            let _ = (&socket).write(b"OK 1\n");
            self.sockets.push(socket);
        }
        for socket in &mut self.sockets {
            let _ = if reading == 1 {
                socket.read(&mut [0; 4096])
            } else {
                socket.write(&[7; 100])
            };
        }
    }

    fn run(&mut self) {
        let mut events = Vec::new();
        let poller = self.engine.muxer.poller.clone();
        let _ = poller.wait(&mut events, Some(std::time::Instant::now()));
        for event in events {
            if let Token::Stream(id) = event.token {
                self.engine.muxer.on_stream_event(id, event);
            }
        }
        self.engine.muxer.on_deadlines();
        self.engine.on_kick(TX);
        let passes = (0..MAX_PASSES).take_while(|_| self.engine.run()).count();
        assert!(passes < MAX_PASSES, "the engine finds work without end");
        assert!(
            self.engine.muxer.streams.len() <= MAX_STREAMS,
            "more streams than allowed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_that_the_fuzzer_found() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/guest");
        let mut count = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let folder = tempfile::tempdir().unwrap();
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            Guest::new(folder.path()).unwrap().play(&bytes);
            count += 1;
        }
        assert!(count > 50);
    }
}
