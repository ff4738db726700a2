// SPDX-License-Identifier: Apache-2.0
//! `inn-guest rings receive`: the messages of a ring, as they come.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use inn_librings::wire::abi::{MessageHeader, RegisterRing, slots};
use inn_librings::wire::{MAX_PAYLOAD, Notice, Receive, Request, WAKE, What};
use inn_librings::{Client, Error};

use super::options::Options;
use super::{connect, partner_name, said};

pub fn run(options: &Options) -> Result<ExitCode, String> {
    let mut client = connect(options)?;
    let (port, partner) = (options.to.port, options.partner);
    let failed = |error| said(format_args!("ring {port}"), error);
    let ring = RegisterRing::new(port, partner, options.ring_bytes);
    client
        .call(&Request::Register(ring), &mut [])
        .map_err(failed)?;
    if !options.json {
        // Whoever starts this knows from it that messages are taken.
        let (own, from) = (client.domain(), partner_name(partner));
        say(format_args!("ring {own}:{port} takes messages of {from}"));
    }
    let mut room = vec![0; MAX_PAYLOAD as usize + 32];
    let mut tally = Tally::default();
    let most = options.count.unwrap_or(u64::MAX);
    while tally.messages < most {
        let request = Request::Receive(Receive {
            port,
            partner,
            pad: 0,
            max_bytes: u32::try_from(room.len()).unwrap_or(u32::MAX),
            flags: WAKE,
        });
        let (_, len) = client.call(&request, &mut room).map_err(failed)?;
        if len == 0 && !wait(&mut client, options).map_err(failed)? {
            return Err(format!("ring {port} is gone"));
        }
        let taken = room.get(..len).unwrap_or(&[]);
        each(taken, |header, data| {
            tally.count(data.len());
            if options.quiet {
                Ok(())
            } else {
                print(options, header, data)
            }
        })?;
    }
    if options.quiet {
        tally.print(options.json);
    }
    Ok(ExitCode::SUCCESS)
}

fn say(line: impl std::fmt::Display) {
    let _ = io::stderr().write_all(format!("inn-guest rings: {line}\n").as_bytes());
}

/// Whether something came; false: the ring is gone.
fn wait(client: &mut Client, options: &Options) -> Result<bool, Error> {
    let mine = (options.to.port, options.partner, client.domain());
    loop {
        match client.event(-1)? {
            Some(Ok(Notice {
                port,
                partner,
                owner,
                what,
            })) if (port, partner, owner) == mine && what != What::Space => {
                return Ok(what == What::Arrival);
            }
            Some(Ok(_)) | None => {}
            Some(Err(_)) => return Ok(true),
        }
    }
}

/// Takes messages apart, as they lie in a ring.
fn each(
    mut left: &[u8],
    mut found: impl FnMut(&MessageHeader, &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let none = || "the host sent a message that is none".to_owned();
    while let Some((head, rest)) = left.split_first_chunk() {
        let header = MessageHeader::decode(head).map_err(|_| none())?;
        let data = rest.get(..header.payload() as usize).ok_or_else(none)?;
        found(&header, data)?;
        let whole = slots(header.payload()) as usize;
        left = rest.get(whole..).ok_or_else(none)?;
    }
    Ok(())
}

fn print(options: &Options, header: &MessageHeader, data: &[u8]) -> Result<(), String> {
    let (from, kind) = (header.source, header.message_type);
    let line = if options.json {
        let hex = data.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        format!(
            "{{\"domain\": {}, \"port\": {}, \"type\": {kind}, \"bytes\": {}, \"data\": \"{hex}\"}}\n",
            from.domain,
            from.port,
            data.len()
        )
    } else {
        let text = data.escape_ascii();
        format!("{}:{} type {kind}: {text}\n", from.domain, from.port)
    };
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| format!("stdout: {error}"))
}

/// How much came, from the first message on.
#[derive(Default)]
struct Tally {
    first: Option<Instant>,
    messages: u64,
    bytes: u64,
}

impl Tally {
    fn count(&mut self, bytes: usize) {
        self.first.get_or_insert_with(Instant::now);
        self.messages += 1;
        self.bytes += bytes as u64;
    }

    fn print(&self, json: bool) {
        let seconds = self
            .first
            .map_or(0.0, |first| first.elapsed().as_secs_f64());
        let (messages, bytes) = (self.messages, self.bytes);
        if json {
            println!("{{\"messages\": {messages}, \"bytes\": {bytes}, \"seconds\": {seconds:.6}}}");
        } else {
            println!("{messages} messages, {bytes} bytes in {seconds:.3} s");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inn_librings::wire::abi::Address;

    #[test]
    fn messages_are_taken_apart_and_damage_is_told() {
        let header = MessageHeader {
            len: 16 + 5,
            source: Address::new(7, 9),
            message_type: 3,
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend(b"hello");
        bytes.resize(32, 0);
        let twice = [bytes.clone(), bytes.clone()].concat();
        let mut found = vec![];
        each(&twice, |one, data| {
            found.push((*one, data.to_vec()));
            Ok(())
        })
        .unwrap();
        assert_eq!(found, vec![(header, b"hello".to_vec()); 2]);
        for damaged in [&bytes[..20], &bytes[..31], &[0; 16]] {
            assert!(each(damaged, |_, _| Ok(())).is_err());
        }
    }
}
