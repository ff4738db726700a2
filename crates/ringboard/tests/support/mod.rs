// SPDX-License-Identifier: Apache-2.0
//! Boards in a folder, and a client that speaks the protocol.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use inn_ringboard::{Config, Flow, HOST, RingBoard, Row, Rules};
use inn_rings::abi::{Address, RegisterRing, RingData, UnregisterRing};
use inn_ringwire::{
    Answer, Notice, Piece, Receive, Request, Sendv, VERSION, WAKE, What, kind, split,
};

/// Nothing here takes as long; a test that hangs ends.
const LIMIT: Duration = Duration::from_secs(30);
pub const ALL: (u32, u32) = (0, u32::MAX);

pub fn everything() -> Flow {
    Flow {
        register: vec![ALL],
        send: vec![(ALL.0, ALL.1, 50)],
        query: vec![ALL],
        notify: vec![ALL],
    }
}

/// A board of one guest.
pub struct Side {
    pub id: u16,
    pub board: RingBoard,
    folder: PathBuf,
}

/// Rules of `own` that allow everything with these guests and the host.
pub fn open_rules(folder: &Path, own: u16, peers: &[u16]) -> Rules {
    let mut rules = Rules {
        guest_any: vec![ALL],
        host_any: vec![ALL],
        mac_permissive: true,
        ..Rules::default()
    };
    for peer in peers {
        rules.rows.insert(*peer, open_row(folder, own, *peer));
    }
    let host = Row {
        path: String::new(),
        ..open_row(folder, own, HOST)
    };
    rules.rows.insert(HOST, host);
    rules
}

pub fn open_row(folder: &Path, own: u16, peer: u16) -> Row {
    let path = folder.join(format!("{peer}_from_{own}"));
    Row {
        path: path.to_str().unwrap().to_owned(),
        to: everything(),
        from: everything(),
    }
}

impl Side {
    pub fn start(folder: &Path, id: u16, rules: Rules, peers: &[u16]) -> Self {
        Self::configured(folder, Config::new(id, rules), peers)
    }

    pub fn configured(folder: &Path, config: Config, peers: &[u16]) -> Self {
        let id = config.guest;
        let listen = |name: String| -> OwnedFd {
            let path = folder.join(name);
            let _ = std::fs::remove_file(&path);
            UnixListener::bind(path).unwrap().into()
        };
        let (guest, host) = (listen(format!("{id}_guest")), listen(format!("{id}_host")));
        let board = RingBoard::start(config, guest, host).unwrap();
        for peer in peers {
            board
                .link(listen(format!("{id}_from_{peer}")), *peer)
                .unwrap();
        }
        Self {
            id,
            board,
            folder: folder.to_owned(),
        }
    }

    pub fn open(folder: &Path, id: u16, peers: &[u16]) -> Self {
        Self::start(folder, id, open_rules(folder, id, peers), peers)
    }

    pub fn raw(&self, who: &str) -> UnixStream {
        let stream = UnixStream::connect(self.folder.join(format!("{}_{who}", self.id))).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    pub fn guest(&self) -> Client {
        Client::greet(self.raw("guest"))
    }

    pub fn host(&self) -> Client {
        Client::greet(self.raw("host"))
    }
}

/// Two boards that may do everything with each other.
pub fn pair(folder: &Path) -> (Side, Side) {
    (Side::open(folder, 3, &[4]), Side::open(folder, 4, &[3]))
}

pub struct Client {
    pub stream: UnixStream,
    input: Vec<u8>,
    events: VecDeque<Notice>,
    answers: VecDeque<(u32, i32, Vec<u8>)>,
    next_tag: u32,
}

impl Client {
    pub fn greet(stream: UnixStream) -> Self {
        let mut client = Self {
            stream,
            input: Vec::new(),
            events: VecDeque::new(),
            answers: VecDeque::new(),
            next_tag: 1,
        };
        assert_eq!(client.call(Request::Hello(VERSION)).0, 0);
        client
    }

    pub fn tag(&mut self) -> u32 {
        self.next_tag += 1;
        self.next_tag
    }

    /// Reads one frame; `false` at the end of the stream.
    fn read_frame(&mut self) -> bool {
        loop {
            if let Some(frame) = split(&self.input).unwrap() {
                let size = frame.size();
                if frame.kind == kind::EVENT {
                    self.events.push_back(Notice::decode(&frame).unwrap().1);
                } else {
                    let answer = Answer::decode(&frame).unwrap();
                    let body = answer.body.to_vec();
                    self.answers.push_back((frame.tag, answer.result, body));
                }
                self.input.drain(..size);
                return true;
            }
            let mut chunk = vec![0; 1 << 16];
            match self.stream.read(&mut chunk) {
                Ok(0) | Err(_) => return false,
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
            }
        }
    }

    pub fn answer(&mut self, tag: u32) -> (i32, Vec<u8>) {
        loop {
            if let Some(place) = self.answers.iter().position(|one| one.0 == tag) {
                let (_, result, body) = self.answers.remove(place).unwrap();
                return (result, body);
            }
            assert!(self.read_frame(), "the board hung up");
        }
    }

    pub fn event(&mut self) -> Notice {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            assert!(self.read_frame(), "the board hung up");
        }
    }

    /// Events that came before the answer to a request of now.
    pub fn events_until_now(&mut self) -> Vec<Notice> {
        self.call(Request::Info);
        self.events.drain(..).collect()
    }

    pub fn call(&mut self, request: Request<'_>) -> (i32, Vec<u8>) {
        let tag = self.tag();
        let mut bytes = Vec::new();
        request.encode(&mut bytes, tag);
        self.stream.write_all(&bytes).unwrap();
        self.answer(tag)
    }

    pub fn register(&mut self, port: u32, partner: u16, len: u32) -> i32 {
        self.call(Request::Register(RegisterRing::new(port, partner, len)))
            .0
    }

    pub fn unregister(&mut self, port: u32, partner: u16) -> i32 {
        let call = UnregisterRing {
            port,
            partner,
            pad: 0,
        };
        self.call(Request::Unregister(call)).0
    }

    pub fn bind(&mut self, port: u32) -> i32 {
        self.call(Request::Bind(port)).0
    }

    pub fn post(&mut self, from: u32, to: Address, bytes: &[u8]) -> u32 {
        let tag = self.tag();
        let mut frame = Vec::new();
        let addresses = [Address::new(0x7FF4, from), to];
        Sendv::encode(&mut frame, tag, addresses, 7, &[Piece::Bytes(bytes)]);
        self.stream.write_all(&frame).unwrap();
        tag
    }

    pub fn send(&mut self, from: u32, to: Address, bytes: &[u8]) -> i32 {
        let tag = self.post(from, to, bytes);
        self.answer(tag).0
    }

    pub fn ask(&mut self, questions: &[(Address, u32)]) -> (i32, Vec<RingData>) {
        let tag = self.tag();
        let mut frame = Vec::new();
        let entries: Vec<_> = questions
            .iter()
            .map(|(ring, space)| RingData::new(*ring, *space))
            .collect();
        Request::encode_notify(&mut frame, tag, &entries);
        self.stream.write_all(&frame).unwrap();
        let (result, body) = self.answer(tag);
        let answer = Answer {
            result,
            body: &body,
        };
        (result, answer.entries().collect())
    }

    /// Messages as source id, source port and payload.
    pub fn receive(&mut self, port: u32, partner: u16) -> Vec<(u16, u32, Vec<u8>)> {
        let call = Receive {
            port,
            partner,
            pad: 0,
            max_bytes: u32::MAX,
            flags: WAKE,
        };
        let (result, body) = self.call(Request::Receive(call));
        assert!(result >= 0, "{result}");
        let messages = slots(&body);
        assert_eq!(messages.len(), usize::try_from(result).unwrap());
        messages
    }

    /// Waits for an arrival, and reads.
    pub fn next(&mut self, port: u32, partner: u16) -> Vec<(u16, u32, Vec<u8>)> {
        let event = self.event();
        assert_eq!((event.port, event.what), (port, What::Arrival));
        self.receive(port, partner)
    }
}

fn slots(mut body: &[u8]) -> Vec<(u16, u32, Vec<u8>)> {
    use inn_rings::abi::{MessageHeader, cost};
    let mut messages = Vec::new();
    while let Some((head, rest)) = body.split_first_chunk::<16>() {
        let header = MessageHeader::decode(head).unwrap();
        let payload = rest[..header.payload() as usize].to_vec();
        messages.push((header.source.domain, header.source.port, payload));
        body = &body[cost(header.payload()) as usize..];
    }
    messages
}
