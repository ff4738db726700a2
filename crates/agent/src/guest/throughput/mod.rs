// SPDX-License-Identifier: Apache-2.0
//! `inn-guest throughput`: how fast a stream is, and how long a round trip takes.
//!
//! One side serves, the other measures and prints. The same program is both, on
//! whatever carries streams, so that figures of different carriers compare.

mod measure;
mod protocol;
mod report;
mod serve;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use super::address::Address;
use super::arguments::Arguments;
use super::{Command, failed, usage_error};
use protocol::MOST_BUFFER;

/// The command.
pub const COMMAND: Command = Command {
    name: "throughput",
    summary: "measure how fast a stream is, and how long a round trip takes",
    help: HELP,
    run,
};

const HELP: &str = "\
usage: inn-guest throughput serve [OPTION]... ADDRESS
       inn-guest throughput send  [OPTION]... ADDRESS
       inn-guest throughput fetch [OPTION]... ADDRESS
       inn-guest throughput ping  [OPTION]... ADDRESS

  serve  listens and does what the others ask; until a signal ends it
  send   sends bytes to the one that serves
  fetch  has it send bytes
  ping   sends a message and waits for its echo, again and again

ADDRESS is tcp:HOST:PORT, vsock:PEER:PORT or unix:PATH as for `inn-guest proxy`.
On the host of a guest, hybrid:PATH:PORT is that port of the guest whose vsock.sock
has this path, and unix:PATH/vsock.sock_PORT is where its connections to the host's
PORT arrive.

  -s, --size SIZE        bytes to move [64M]; of each message of a ping [1]
  -b, --buffer SIZE      bytes for each read and write of both sides [64K]
  -w, --socket-buffer SIZE  buffer of this side's socket [what the kernel gives]
  -c, --count N          round trips [1000]
  -d, --digest           compare SHA-256 of what was sent and what arrived
      --stall SECONDS    give up once nothing moved for so long [30]
      --once             serve one connection, then end
      --format json      one JSON object instead of text

SIZE is a number of bytes; K, M and G behind it mean 1024, 1024² and 1024³ of them.
The rate counts from the first byte until the other side says that it has all.
CPU time is this program's own. The first round trip is not counted.

Exit status: 0; 1 where something failed or the digests differ; 2 for wrong usage.
";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Serve,
    Send,
    Fetch,
    Ping,
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    verb: Verb,
    address: Address,
    size_bytes: u64,
    buffer_bytes: u32,
    socket_buffer_bytes: Option<u64>,
    count: u64,
    digest: bool,
    stall: Duration,
    once: bool,
    json: bool,
}

const DEFAULT_SIZE: u64 = 64 << 20;
const MOST_SIZE: u64 = 1 << 50;
const DEFAULT_BUFFER: u32 = 64 << 10;
const MOST_SOCKET_BUFFER: u64 = 1 << 30;
const DEFAULT_COUNT: u64 = 1000;
/// Each round trip's time is kept, in 8 bytes.
const MOST_COUNT: u64 = 10_000_000;
const DEFAULT_STALL_S: u64 = 30;
const MOST_STALL_S: u64 = 86400;

fn run(args: &[OsString]) -> ExitCode {
    let options = match parse(args) {
        Ok(options) => options,
        Err(problem) => return usage_error(&COMMAND, &problem),
    };
    let done = match options.verb {
        Verb::Serve => serve::run(&options),
        Verb::Send | Verb::Fetch => measure::transfer(&options),
        Verb::Ping => measure::ping(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&COMMAND, error),
    }
}

fn parse(args: &[OsString]) -> Result<Options, String> {
    let mut arguments = Arguments::new(args);
    let verb = match arguments.next().as_ref().and_then(|word| word.to_str()) {
        Some("serve") => Verb::Serve,
        Some("send") => Verb::Send,
        Some("fetch") => Verb::Fetch,
        Some("ping") => Verb::Ping,
        _ => return Err("say serve, send, fetch or ping".to_owned()),
    };
    let mut address = None;
    let (mut size, mut buffer, mut socket_buffer) = (None, u64::from(DEFAULT_BUFFER), None);
    let (mut count, mut stall_s) = (DEFAULT_COUNT, DEFAULT_STALL_S);
    let (mut digest, mut once, mut json) = (false, false, false);
    while let Some(word) = arguments.next() {
        match word.to_str() {
            Some(option @ ("-s" | "--size")) => {
                let most = if verb == Verb::Ping {
                    MOST_BUFFER.into()
                } else {
                    MOST_SIZE
                };
                size = Some(arguments.size(option, 1..=most)?);
            }
            Some(option @ ("-b" | "--buffer")) => {
                buffer = arguments.size(option, 1..=MOST_BUFFER.into())?;
            }
            Some(option @ ("-w" | "--socket-buffer")) => {
                socket_buffer = Some(arguments.size(option, 1..=MOST_SOCKET_BUFFER)?);
            }
            Some(option @ ("-c" | "--count")) => {
                count = arguments.number(option, 1..=MOST_COUNT)?;
            }
            Some(option @ "--stall") => stall_s = arguments.number(option, 1..=MOST_STALL_S)?,
            Some("-d" | "--digest") => digest = true,
            Some("--once") => once = true,
            Some("--format") => match arguments.next().as_ref().and_then(|word| word.to_str()) {
                Some("json") => json = true,
                Some("text") => json = false,
                _ => return Err("--format takes text or json".to_owned()),
            },
            Some(option) if option.starts_with('-') => return Err(format!("no option {option}")),
            _ if address.is_some() => return Err("give one address".to_owned()),
            _ => address = Some(Address::parse(&word)?),
        }
    }
    let unsaid = if verb == Verb::Ping { 1 } else { DEFAULT_SIZE };
    Ok(Options {
        verb,
        address: address.ok_or("give an address")?,
        size_bytes: size.unwrap_or(unsaid),
        buffer_bytes: u32::try_from(buffer).unwrap_or(MOST_BUFFER),
        socket_buffer_bytes: socket_buffer,
        count,
        digest,
        stall: Duration::from_secs(stall_s),
        once,
        json,
    })
}

/// A line for whoever watches.
fn say(line: impl std::fmt::Display) {
    let _ = io::stderr().write_all(format!("inn-guest throughput: {line}\n").as_bytes());
}

impl Options {
    fn socket(&self) -> super::sockets::Options {
        super::sockets::Options {
            blocking: true,
            buffer_bytes: self.socket_buffer_bytes,
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
