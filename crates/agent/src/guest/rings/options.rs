// SPDX-License-Identifier: Apache-2.0
//! The command line of `inn-guest rings`.

use std::ffi::OsString;

use inn_librings::wire::MAX_PAYLOAD;
use inn_librings::wire::abi::{Address, DOMID_ANY, FIRST_RESERVED_ID, MAX_RING, MIN_RING, SLOT};

use crate::guest::arguments::Arguments;
use crate::guest::hosts::Hosts;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Send,
    Receive,
    Query,
    Bench,
}

/// What the command line asks for.
#[derive(Debug)]
pub struct Options {
    pub verb: Verb,
    /// To whom; the port alone for `receive`.
    pub to: Address,
    pub text: Option<OsString>,
    /// Asked about by `query`.
    pub bytes: u32,
    pub port: u32,
    pub message_type: u32,
    pub partner: u16,
    pub count: Option<u64>,
    pub size: usize,
    pub batch: usize,
    pub ring_bytes: u32,
    pub wait: bool,
    pub quiet: bool,
    pub socket: Option<OsString>,
    pub json: bool,
}

const MOST: u64 = u32::MAX as u64;
const HOST_CID: u32 = 2;

pub fn parse(args: &[OsString]) -> Result<Options, String> {
    let mut arguments = Arguments::new(args);
    let verb = match arguments.next().as_ref().and_then(|word| word.to_str()) {
        Some("send") => Verb::Send,
        Some("receive") => Verb::Receive,
        Some("query") => Verb::Query,
        Some("bench") => Verb::Bench,
        _ => return Err("say send, receive, query or bench".to_owned()),
    };
    let mut options = Options {
        verb,
        to: Address::default(),
        text: None,
        bytes: 0,
        port: 0,
        message_type: 0,
        partner: DOMID_ANY,
        count: None,
        size: 1024,
        batch: 64,
        ring_bytes: 256 << 10,
        wait: true,
        quiet: false,
        socket: None,
        json: false,
    };
    let mut words = vec![];
    while let Some(word) = arguments.next() {
        match word.to_str() {
            Some("--") => words.extend(std::iter::from_fn(|| arguments.next())),
            Some(option) if option.len() > 1 && option.starts_with('-') => {
                take(&mut options, option, &mut arguments)?;
            }
            _ => words.push(word),
        }
    }
    place(&mut options, &words)?;
    Ok(options)
}

fn take(options: &mut Options, option: &str, arguments: &mut Arguments<'_>) -> Result<(), String> {
    match option {
        "-p" | "--port" => options.port = number(arguments, option)?,
        "-t" | "--type" => options.message_type = number(arguments, option)?,
        "-n" | "--count" => options.count = Some(arguments.number(option, 1..=1 << 40)?),
        "-s" | "--size" => {
            let bytes = arguments.size(option, 0..=u64::from(MAX_PAYLOAD))?;
            options.size = usize::try_from(bytes).unwrap_or(usize::MAX);
        }
        "-b" | "--batch" => {
            let count = arguments.number(option, 1..=1024)?;
            options.batch = usize::try_from(count).unwrap_or(1);
        }
        "-r" | "--ring" => {
            let bytes = arguments.size(option, u64::from(MIN_RING)..=u64::from(MAX_RING))?;
            options.ring_bytes = u32::try_from(bytes).unwrap_or(MAX_RING) & !(SLOT - 1);
        }
        "-f" | "--from" => {
            let word = arguments.next().unwrap_or_default();
            options.partner = domain(word.to_str().unwrap_or_default())?;
        }
        "--no-wait" => options.wait = false,
        "--quiet" => options.quiet = true,
        "--socket" => options.socket = Some(arguments.next().ok_or("--socket takes a path")?),
        "--format" => {
            options.json = match arguments.next().as_ref().and_then(|word| word.to_str()) {
                Some("json") => true,
                Some("text") => false,
                _ => return Err("--format takes text or json".to_owned()),
            };
        }
        other => return Err(format!("no option {other}")),
    }
    Ok(())
}

fn number(arguments: &mut Arguments<'_>, option: &str) -> Result<u32, String> {
    let value = arguments.number(option, 0..=MOST)?;
    Ok(u32::try_from(value).unwrap_or(u32::MAX))
}

/// Where, and what comes behind it.
fn place(options: &mut Options, words: &[OsString]) -> Result<(), String> {
    let (first, rest) = words.split_first().ok_or("say where")?;
    let first = first.to_str().ok_or("an address is text")?;
    let port = |word: &str| {
        word.parse()
            .map_err(|_| format!("{word}: a port is a number"))
    };
    options.to = match (options.verb, first.rsplit_once(':')) {
        (Verb::Receive, None) => Address::new(0, port(first)?),
        (Verb::Receive, Some(_)) => return Err("receive takes a port".to_owned()),
        (_, Some((who, at))) => Address::new(domain(who)?, port(at)?),
        (_, None) => return Err(format!("{first}: say TO:PORT")),
    };
    match (options.verb, rest) {
        (_, []) => {}
        (Verb::Send, [text]) => options.text = Some(text.clone()),
        (Verb::Query, [bytes]) => {
            let text = bytes.to_str().and_then(|text| text.parse().ok());
            options.bytes = text.ok_or("BYTES is a number")?;
        }
        _ => return Err("too many words".to_owned()),
    }
    Ok(())
}

/// A domain's id: 0 or `host`, a CID, or a name.
fn domain(word: &str) -> Result<u16, String> {
    if word == "0" {
        return Ok(0);
    }
    match Hosts::read().cid(word)? {
        HOST_CID => Ok(0),
        cid => u16::try_from(cid)
            .ok()
            .filter(|id| *id < FIRST_RESERVED_ID)
            .ok_or_else(|| format!("{word}: a guest with CID {cid} has no rings")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options, String> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        parse(&words)
    }

    #[test]
    fn words_become_addresses_and_options() {
        let options = parsed("send --type=7 -p 9 host:80 hello").unwrap();
        assert_eq!(options.to, Address::new(0, 80));
        assert_eq!((options.port, options.message_type), (9, 7));
        assert_eq!(options.text.unwrap(), "hello");
        let options = parsed("receive -n 3 --from 1024 --ring 4K 80").unwrap();
        assert_eq!((options.to.port, options.partner), (80, 1024));
        assert_eq!((options.count, options.ring_bytes), (Some(3), 4096));
        assert_eq!(parsed("query 5:80 100").unwrap().bytes, 100);
        assert_eq!(parsed("bench -s 64K 2:80").unwrap().size, 65536);
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "send",
            "send 80",
            "send nobody:80",
            "send 70000:80",
            "send 5:80 a b",
            "receive 5:80",
            "query 5:80 x",
            "bench --size 2M 5:80",
            "bench --sise 2 5:80",
            "rest",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
