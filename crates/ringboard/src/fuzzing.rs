// SPDX-License-Identifier: Apache-2.0
//! A board without a thread, whose clients send what they like.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use inn_rings::abi::{Address, RegisterRing, RingData};
use inn_ringwire::{Answer, Notice, Piece, Receive, Request, Sendv, VERSION, kind, split};

use crate::audit::Decisions;
use crate::board::Board;
use crate::listeners::Clients;
use crate::table::{Flow, HOST, Row, Rules};

const GUEST: u16 = 3;
const PEER: u16 = 4;

/// A board with a program of the guest, one of the host and a peer's keeper.
pub struct Scene {
    board: Board,
    streams: Vec<UnixStream>,
    received: Vec<Vec<u8>>,
}

impl Scene {
    /// Everything is allowed, and everybody has said hello.
    ///
    /// # Errors
    /// The kernel has no sockets to give.
    pub fn new() -> std::io::Result<Self> {
        let mut board = Board::new(GUEST, Arc::new(Decisions::new()?))?;
        let all = (0, u32::MAX);
        let flow = Flow {
            register: vec![all],
            send: vec![(all.0, all.1, 50)],
            query: vec![all],
            notify: vec![all],
        };
        let row = Row {
            path: String::new(),
            to: flow.clone(),
            from: flow,
        };
        board.set_rules(Rules {
            rows: [HOST, PEER].map(|id| (id, row.clone())).into(),
            guest_any: vec![all],
            host_any: vec![all],
            mac_permissive: true,
        });
        let mut streams = Vec::new();
        for clients in [Clients::Guest, Clients::Host, Clients::Peer(PEER)] {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            theirs.set_nonblocking(true)?;
            board.admit(OwnedFd::from(theirs), clients);
            streams.push(ours);
        }
        let received = vec![Vec::new(); streams.len()];
        let mut scene = Self {
            board,
            streams,
            received,
        };
        let mut hello = Vec::new();
        Request::Hello(VERSION).encode(&mut hello, 1);
        (0..3).for_each(|who| scene.send(who, &hello));
        Ok(scene)
    }

    /// One of the three sends bytes, and the board does all it can.
    pub fn send(&mut self, who: usize, mut bytes: &[u8]) {
        let who = who % self.streams.len();
        loop {
            let written = self.streams.get_mut(who).map(|one| one.write(bytes));
            if let Some(Ok(count)) = written {
                bytes = bytes.get(count..).unwrap_or_default();
            } else {
                bytes = &[];
            }
            self.run();
            if bytes.is_empty() {
                return;
            }
        }
    }

    fn run(&mut self) {
        let ids: Vec<_> = self.board.connections.keys().copied().collect();
        for id in ids {
            if let Some(connection) = self.board.connections.get_mut(&id) {
                connection.readable = true;
            }
            self.board.queue_up(id);
        }
        while let Some(id) = self.board.queue.pop_front() {
            if let Some(connection) = self.board.connections.get_mut(&id) {
                connection.queued = false;
                self.board.serve(id);
            }
            self.board.settle();
            self.read();
        }
    }

    fn read(&mut self) {
        let mut chunk = vec![0; 1 << 16];
        for (stream, received) in self.streams.iter_mut().zip(&mut self.received) {
            while let Ok(count @ 1..) = stream.read(&mut chunk) {
                received.extend_from_slice(chunk.get(..count).unwrap_or_default());
            }
        }
    }

    /// Whether all that came back are answers and events, as the document says,
    /// and the board's accounts are right.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        self.board.accounts_are_right() && self.received.iter().all(|bytes| well_formed(bytes))
    }
}

fn well_formed(mut bytes: &[u8]) -> bool {
    loop {
        let frame = match split(bytes) {
            Ok(Some(frame)) => frame,
            Ok(None) => return bytes.is_empty(),
            Err(_) => return false,
        };
        let good = match frame.kind {
            kind::ANSWER => Answer::decode(&frame).is_ok(),
            _ => Notice::decode(&frame).is_ok(),
        };
        if !good {
            return false;
        }
        bytes = bytes.get(frame.size()..).unwrap_or_default();
    }
}

/// Any bytes as a script: each step is a request of one of the three with small
/// numbers, so that they meet, or raw bytes.
pub fn play(script: &[u8]) -> bool {
    let Ok(mut scene) = Scene::new() else {
        return true;
    };
    let mut steps = script.chunks_exact(6);
    for step in steps.by_ref() {
        let &[who, what, a, b, c, d] = step else {
            break;
        };
        let frame = request(usize::from(who) % 3 == 2, [what, a, b, c, d]);
        scene.send(usize::from(who), &frame);
        if !scene.is_sane() {
            return false;
        }
    }
    let rest = steps.remainder();
    scene.send(rest.len(), rest);
    scene.is_sane()
}

fn request(is_peer: bool, [what, a, b, c, d]: [u8; 5]) -> Vec<u8> {
    const IDS: [u16; 4] = [HOST, GUEST, PEER, 0x7FF4];
    let mut frame = Vec::new();
    let (port, id) = (u32::from(a % 4), IDS.map(|id| id)[usize::from(b % 4)]);
    let tag = u32::from(d) + 1;
    let len = u32::from(c) * 16;
    let pieces = [
        Piece::Bytes(&[7; 255][..usize::from(c)]),
        Piece::Unreadable(u32::from(d / 250)),
    ];
    let addresses = [
        Address::new(0x7FF4, u32::from(d % 4)),
        Address::new(id, port),
    ];
    let entries = [RingData::new(Address::new(id, port), len); 2];
    match (what % 12, is_peer) {
        (0..3, true) => Sendv::encode_for(&mut frame, tag, u32::from(c % 3), addresses, 1, &pieces),
        (3, true) => Request::encode_notify_for(&mut frame, tag, u32::from(c % 3), &entries),
        (4, true) => Request::Gone(u32::from(c % 3)).encode(&mut frame, 0),
        (0, _) => Request::Register(RegisterRing::new(port, id, len)).encode(&mut frame, tag),
        (1..4, _) => Sendv::encode(&mut frame, tag, addresses, 1, &pieces),
        (4, _) => Request::encode_notify(&mut frame, tag, &entries),
        (5 | 6, _) => {
            let receive = Receive {
                port,
                partner: id,
                pad: 0,
                max_bytes: len,
                flags: u32::from(d % 2),
            };
            Request::Receive(receive).encode(&mut frame, tag);
        }
        (7, _) => Request::Bind(port).encode(&mut frame, tag),
        (8, _) => Request::Unbind(port).encode(&mut frame, tag),
        (9, _) => Request::Info.encode(&mut frame, tag),
        (10, _) => {
            let call = inn_rings::abi::UnregisterRing {
                port,
                partner: id,
                pad: 0,
            };
            Request::Unregister(call).encode(&mut frame, tag);
        }
        // A frame of any kind with any body.
        _ => frame.extend_from_slice(&[8, 0, 0, 0, c, d, 0, 0, 0, a, b, c]),
    }
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_script_leaves_the_board_sane(script in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(play(&script));
        }
    }

    #[test]
    fn scripts_that_the_fuzzer_found() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/clients");
        let entries: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
        assert!(entries.len() > 50);
        for entry in entries {
            assert!(play(&std::fs::read(entry.unwrap().path()).unwrap()));
        }
    }
}
