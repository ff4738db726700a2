// SPDX-License-Identifier: Apache-2.0
//! Replies as bytes.

use std::io;

use crate::attributes::Attributes;
use crate::packet::Builder;
use crate::request::{EXTENSIONS, Handle};

/// Most bytes of data in one reply or request: what is left of a packet by its header.
pub const DATA_LIMIT: usize = crate::PACKET_LIMIT - 1024;

/// The protocol's words for how a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Nothing more to read.
    Eof = 1,
    /// There is no such file.
    NoSuchFile = 2,
    /// Not allowed.
    PermissionDenied = 3,
    /// Everything else.
    Failure = 4,
    /// The request cannot be read.
    BadMessage = 5,
    /// The request is not served.
    Unsupported = 8,
}

/// What went wrong: a word for programs, a sentence for people.
#[derive(Debug)]
pub struct Problem {
    /// For programs.
    pub status: Status,
    /// For people.
    pub text: String,
}

impl Problem {
    /// A problem with a text of ours.
    pub fn new(status: Status, text: &str) -> Self {
        Self {
            status,
            text: text.to_owned(),
        }
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        let status = match error.kind() {
            io::ErrorKind::NotFound => Status::NoSuchFile,
            io::ErrorKind::PermissionDenied => Status::PermissionDenied,
            io::ErrorKind::UnexpectedEof => Status::Eof,
            _ => Status::Failure,
        };
        let text = error.raw_os_error().map_or_else(
            || error.to_string(),
            |number| nix::errno::Errno::from_raw(number).desc().to_owned(),
        );
        Self { status, text }
    }
}

impl From<nix::errno::Errno> for Problem {
    fn from(errno: nix::errno::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// The answer to the first packet: version 3 and our extensions.
pub fn version() -> Vec<u8> {
    let mut packet = Builder::new(2);
    packet.u32(3);
    for (name, version) in EXTENSIONS {
        packet.string(name.as_bytes()).string(version.as_bytes());
    }
    packet.finish()
}

/// How a request without data ended.
pub fn status(id: u32, status: Status, text: &str) -> Vec<u8> {
    Builder::new(101)
        .u32(id)
        .u32(status as u32)
        .string(text.as_bytes())
        .string(b"en")
        .finish()
}

/// The number of something that was opened.
pub fn handle(id: u32, handle: Handle) -> Vec<u8> {
    Builder::new(102)
        .u32(id)
        .string(&handle.0.to_be_bytes())
        .finish()
}

/// Bytes of a file.
pub fn data(id: u32, bytes: &[u8]) -> Vec<u8> {
    Builder::new(103).u32(id).string(bytes).finish()
}

/// Attributes of a file.
pub fn attributes(id: u32, attributes: &Attributes) -> Vec<u8> {
    let mut packet = Builder::new(105);
    packet.u32(id);
    attributes.write(&mut packet);
    packet.finish()
}

/// An answer with these numbers (OpenSSH's extensions).
pub fn numbers(id: u32, numbers: &[u64]) -> Vec<u8> {
    let mut packet = Builder::new(201);
    packet.u32(id);
    for number in numbers {
        packet.u64(*number);
    }
    packet.finish()
}

/// Names, as many as fit.
#[derive(Debug)]
pub struct Names {
    packet: Builder,
    count: u32,
}

impl Names {
    /// An answer without names yet.
    pub fn new(id: u32) -> Self {
        let mut packet = Builder::new(104);
        packet.u32(id).u32(0);
        Self { packet, count: 0 }
    }

    /// Adds one.
    pub fn add(&mut self, name: &[u8], long: &[u8], attributes: &Attributes) {
        self.packet.string(name).string(long);
        attributes.write(&mut self.packet);
        self.count += 1;
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// True where one more may not fit: a name has 255 bytes at most, twice.
    pub fn is_full(&self) -> bool {
        self.count >= 128 || self.packet.size() + 1024 > DATA_LIMIT
    }

    /// The finished packet.
    pub fn finish(mut self) -> Vec<u8> {
        // After the type and the request's number.
        self.packet.patch_u32(5, self.count);
        self.packet.finish()
    }
}
