// SPDX-License-Identifier: Apache-2.0
//! A client's connection: frames of a size (itself included), a type, a tag and
//! a body.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::sync::Arc;

use nix::errno::Errno;

use crate::files::Tree;
use crate::request::parse;
use crate::server::Server;
use crate::wire::Writer;

const HEADER: usize = 7;

/// Of an answer that is an errno.
const ERROR: u8 = 7;

/// Small messages come in one read together with their size.
const BUFFER: usize = 16 << 10;

/// Serves a client to its end. An error is one of the connection, or of a
/// client that does not keep to the framing.
pub fn serve<S>(stream: &S, tree: Arc<Tree>) -> io::Result<()>
where
    for<'a> &'a S: Read + Write,
{
    let mut server = Server::new(tree);
    let mut input = BufReader::with_capacity(BUFFER, stream);
    let mut output = stream;
    let mut body = Vec::new();
    loop {
        let mut header = [0; HEADER];
        match input.read_exact(&mut header) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            result => result?,
        }
        let [a, b, c, d, kind, low, high] = header;
        let size = u32::from_le_bytes([a, b, c, d]);
        let length = usize::try_from(size)
            .ok()
            .and_then(|size| size.checked_sub(HEADER));
        let Some(length) = length.filter(|_| size <= server.message_limit()) else {
            return Err(io::Error::new(ErrorKind::InvalidData, "a message's size"));
        };
        body.clear();
        if input.by_ref().take(length as u64).read_to_end(&mut body)? < length {
            return Ok(());
        }
        let answer = parse(kind, &body).and_then(|request| server.answer(&request));
        output.write_all(&frame(kind, [low, high], answer))?;
    }
}

fn frame(kind: u8, tag: [u8; 2], answer: nix::Result<Writer>) -> Vec<u8> {
    let (kind, body) = match answer {
        // An answer's type is the request's and one.
        Ok(body) => (kind.wrapping_add(1), body.into_bytes()),
        Err(errno) => (ERROR, number(errno).to_le_bytes().to_vec()),
    };
    let size = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut frame = Writer::default();
    frame.u32(size).u8(kind).raw(&tag).raw(&body);
    frame.into_bytes()
}

fn number(errno: Errno) -> u32 {
    (errno as i32).unsigned_abs()
}
