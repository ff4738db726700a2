// SPDX-License-Identifier: Apache-2.0
//! The side that connects, measures and prints.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::protocol::{Mode, Moved, Request, give, take};
use super::report::{Cpu, RoundTrips, Transfer};
use super::{Options, Verb};
use crate::guest::sockets::{dial, explained};

/// Moves bytes one way.
pub fn transfer(options: &Options) -> Result<(), String> {
    let request = Request {
        mode: if options.verb == Verb::Send {
            Mode::Take
        } else {
            Mode::Give
        },
        digest: options.digest,
        buffer_bytes: options.buffer_bytes,
        size_bytes: options.size_bytes,
    };
    let stream = dial(&options.address, options.socket(), options.stall)?;
    let before = cpu();
    let begun = Instant::now();
    let moved = move_bytes(stream, &request);
    let (ours, theirs) = moved.map_err(|error| explained(&options.address, &error))?;
    let transfer = Transfer {
        ours,
        theirs,
        took: begun.elapsed(),
        sent: options.verb == Verb::Send,
        buffer_bytes: options.buffer_bytes,
        digest: options.digest,
        cpu: cpu().since(&before),
    };
    print(options, &transfer.json(), &transfer.text());
    if transfer.is_whole() {
        return Ok(());
    }
    Err("what arrived is not what was sent: the digests differ".to_owned())
}

/// What this side moved, and what the other says.
pub fn move_bytes(mut stream: UnixStream, request: &Request) -> io::Result<(Moved, Moved)> {
    stream.write_all(&request.encode())?;
    let ours = if request.mode == Mode::Take {
        give(&stream, request)?
    } else {
        take(&stream, request)?
    };
    let mut answer = [0; 48];
    stream.read_exact(&mut answer)?;
    Ok((ours, Moved::decode(&answer)))
}

/// Measures round trips.
pub fn ping(options: &Options) -> Result<(), String> {
    let request = Request {
        mode: Mode::Echo,
        digest: false,
        buffer_bytes: options.buffer_bytes,
        size_bytes: options.size_bytes,
    };
    let stream = dial(&options.address, options.socket(), options.stall)?;
    let before = cpu();
    let begun = Instant::now();
    let times = round_trips(stream, &request, options.count);
    let trips = RoundTrips {
        times: times.map_err(|error| explained(&options.address, &error))?,
        size_bytes: options.size_bytes,
        took: begun.elapsed(),
        cpu: cpu().since(&before),
    };
    print(options, &trips.json(), &trips.text());
    Ok(())
}

/// How long each round trip took, shortest first.
pub fn round_trips(
    mut stream: UnixStream,
    request: &Request,
    count: u64,
) -> io::Result<Vec<Duration>> {
    stream.write_all(&request.encode())?;
    let mut message = vec![b'x'; usize::try_from(request.size_bytes).unwrap_or(0).max(1)];
    let mut times = Vec::new();
    for number in 0..=count {
        let begun = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        // The first also waits for the other side's thread.
        if number > 0 {
            times.push(begun.elapsed());
        }
    }
    times.sort_unstable();
    Ok(times)
}

fn cpu() -> Cpu {
    // It fails for no valid argument.
    getrusage(UsageWho::RUSAGE_SELF).map_or_else(
        |_| Cpu::default(),
        |usage| {
            let micros = |value: i64| Duration::from_micros(u64::try_from(value).unwrap_or(0));
            Cpu {
                user: micros(usage.user_time().num_microseconds()),
                system: micros(usage.system_time().num_microseconds()),
            }
        },
    )
}

fn print(options: &Options, json: &str, text: &str) {
    println!("{}", if options.json { json } else { text });
}
