// SPDX-License-Identifier: Apache-2.0
//! `inn-guest rings`: messages over rings from the command line, and how fast they are.

mod bench;
mod options;
mod receive;
mod send;

use std::ffi::OsString;
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use inn_librings::wire::abi::{Address, DOMID_ANY, RingData, flags};
use inn_librings::wire::{Notice, Request, What};
use inn_librings::{Client, Error, Place};
use nix::errno::Errno;

use super::{Command, failed, usage_error};
use options::{Options, Verb};

/// The command.
pub const COMMAND: Command = Command {
    name: "rings",
    summary: "send and receive messages over rings, and measure them",
    help: HELP,
    run,
};

const HELP: &str = "\
usage: inn-guest rings send    [OPTION]... TO:PORT [TEXT]
       inn-guest rings receive [OPTION]... PORT
       inn-guest rings query   [OPTION]... TO:PORT [BYTES]
       inn-guest rings bench   [OPTION]... TO:PORT

  send     sends TEXT, or all of stdin, as one message; waits for room
  receive  makes a ring and prints the messages that come, with their senders
  query    tells whether there is a ring that takes messages, and how large ones
  bench    sends many messages as fast as they are taken, until all were read

TO is a domain: `host`, the name of a machine of the topology, or its CID.

  -p, --port PORT       send from this port [any]
  -t, --type N          the message's type [0]
  -f, --from FROM       receive from this domain alone [all]
  -n, --count N         messages: receive so many, then end; send so many [100000]
  -s, --size SIZE       bytes of a message of a bench [1K]
  -b, --batch N         messages of a bench that are sent before an answer [64]
  -r, --ring SIZE       bytes of the ring, a multiple of 16 [256K]
      --no-wait         fail where there is no room
      --quiet           receive: print how many came, at the end
      --socket PATH     the rings.sock of a guest, on its host
      --format json     one JSON object a line instead of text

Exit status: 0; 1 where something failed, or a query found no ring; 2 for wrong usage.
";

fn run(args: &[OsString]) -> ExitCode {
    let options = match options::parse(args) {
        Ok(options) => options,
        Err(problem) => return usage_error(&COMMAND, &problem),
    };
    let done = match options.verb {
        Verb::Send => send::run(&options),
        Verb::Receive => receive::run(&options),
        Verb::Query => query(&options),
        Verb::Bench => bench::run(&options),
    };
    match done {
        Ok(code) => code,
        Err(problem) => failed(&COMMAND, problem),
    }
}

fn connect(options: &Options) -> Result<Client, String> {
    let place = match &options.socket {
        Some(path) => Place::Socket(path.as_bytes()),
        None => Place::Host,
    };
    Client::open(place).map_err(|error| match &options.socket {
        Some(path) => said(path.to_string_lossy(), error),
        None => said("no rings of the host", error),
    })
}

/// What could not be done, and the error's own words.
fn said(what: impl Display, error: Error) -> String {
    format!("{what}: {}", Errno::from_raw(error.0).desc())
}

/// A port to send from.
fn bind(client: &mut Client, options: &Options) -> Result<u32, String> {
    let mut port = [0; 4];
    client
        .call(&Request::Bind(options.port), &mut port)
        .map_err(|error| said(format_args!("port {}", options.port), error))?;
    Ok(u32::from_le_bytes(port))
}

/// Waits until something happens that is about the ring at `to`.
fn wait_for_room(client: &mut Client, to: Address) -> Result<(), Error> {
    loop {
        match client.event(-1)? {
            Some(Ok(Notice {
                port, owner, what, ..
            })) if (owner, port) != (to.domain, to.port) || what == What::Arrival => {}
            Some(_) => return Ok(()),
            None => {}
        }
    }
}

fn ask(client: &mut Client, to: Address, bytes: u32) -> Result<RingData, String> {
    let mut entry = [RingData::new(to, bytes)];
    let asked = client.notify(&mut entry);
    asked.map_err(|error| said(format_args!("{}:{}", to.domain, to.port), error))?;
    let [entry] = entry;
    Ok(entry)
}

fn query(options: &Options) -> Result<ExitCode, String> {
    const NAMES: [(u16, &str); 6] = [
        (flags::EXISTS, "exists"),
        (flags::SHARED, "shared"),
        (flags::EMPTY, "empty"),
        (flags::SUFFICIENT, "sufficient"),
        (flags::EMSGSIZE, "too-long"),
        (flags::EBUSY, "busy"),
    ];
    let entry = ask(&mut connect(options)?, options.to, options.bytes)?;
    let set = NAMES.iter().filter(|(bit, _)| entry.flags & bit != 0);
    let words: Vec<_> = set.map(|(_, name)| *name).collect();
    let most = entry.max_message_size;
    if options.json {
        let list: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
        println!(
            "{{\"flags\": [{}], \"max_bytes\": {most}}}",
            list.join(", ")
        );
    } else if words.is_empty() {
        println!("no ring takes messages there");
    } else {
        println!("{}; messages of at most {most} bytes", words.join(", "));
    }
    Ok(if entry.flags & flags::EXISTS != 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A domain in words.
fn partner_name(partner: u16) -> String {
    if partner == DOMID_ANY {
        "all".to_owned()
    } else {
        partner.to_string()
    }
}
