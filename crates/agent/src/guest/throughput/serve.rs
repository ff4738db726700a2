// SPDX-License-Identifier: Apache-2.0
//! The side that listens.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::protocol::{Mode, Moved, Request, give, take};
use super::{Options, say};
use crate::guest::hosts::Hosts;
use crate::guest::sockets::{self, Target, explained};

/// Connections at a time; each has a thread and a buffer.
const MOST_CONNECTIONS: usize = 64;

/// Listens and serves, until the program is ended or has served once.
pub fn run(options: &Options) -> Result<(), String> {
    let target = Target::to_listen(&options.address, &Hosts::read())?;
    let explain = |error| explained(&options.address, &error);
    let listener = target.listen(options.socket()).map_err(explain)?;
    say(format!("listening on {}", options.address));
    // A token for each connection; those that have one share its count.
    let tokens = Arc::new(());
    loop {
        let fd = sockets::accept_one(&listener).map_err(explain)?;
        sockets::without_delay(&fd);
        let stream = UnixStream::from(fd);
        if options.once {
            return serve(stream).map_err(|error| error.to_string());
        }
        if Arc::strong_count(&tokens) > MOST_CONNECTIONS {
            continue;
        }
        let token = Arc::clone(&tokens);
        let worker = move || {
            if let Err(error) = serve(stream) {
                say(format!("a connection ended early: {error}"));
            }
            drop(token);
        };
        // Without a thread the connection just closes.
        let _ = std::thread::Builder::new().spawn(worker);
    }
}

/// Does what one connection asks for.
pub fn serve(mut stream: UnixStream) -> io::Result<()> {
    let mut bytes = [0; 32];
    stream.read_exact(&mut bytes)?;
    let Some(request) = Request::decode(&bytes) else {
        return Err(io::Error::other("this is no `inn-guest throughput`"));
    };
    match request.mode {
        Mode::Take => {
            let moved = take(&stream, &request)?;
            answer(stream, &moved)
        }
        Mode::Give => {
            let moved = give(&stream, &request)?;
            answer(stream, &moved)
        }
        Mode::Echo => echo(stream, &request),
    }
}

fn answer(mut stream: UnixStream, moved: &Moved) -> io::Result<()> {
    stream.write_all(&moved.encode())
}

fn echo(mut stream: UnixStream, request: &Request) -> io::Result<()> {
    let mut message = vec![0; usize::try_from(request.size_bytes).unwrap_or(0).max(1)];
    loop {
        match stream.read_exact(&mut message) {
            Ok(()) => stream.write_all(&message)?,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
