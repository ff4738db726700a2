// SPDX-License-Identifier: Apache-2.0
//! `inn-guest rings send`: one message.

use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use inn_librings::Error;
use inn_librings::wire::abi::Address;
use inn_librings::wire::{MAX_PAYLOAD, Piece};

use super::options::Options;
use super::{bind, connect, said, wait_for_room};

pub fn run(options: &Options) -> Result<ExitCode, String> {
    let bytes = match &options.text {
        Some(text) => text.as_bytes().to_vec(),
        None => read_stdin()?,
    };
    let mut client = connect(options)?;
    let from = Address::new(client.domain(), bind(&mut client, options)?);
    let to = options.to;
    let failed = |error| said(format_args!("{}:{}", to.domain, to.port), error);
    loop {
        let sent = client.sendv([from, to], options.message_type, &[Piece::Bytes(&bytes)]);
        match sent {
            Err(Error::AGAIN) if options.wait => wait_for_room(&mut client, to).map_err(failed)?,
            Err(error) => return Err(failed(error)),
            Ok(_) => return Ok(ExitCode::SUCCESS),
        }
    }
}

fn read_stdin() -> Result<Vec<u8>, String> {
    let mut bytes = vec![];
    io::stdin()
        .take(u64::from(MAX_PAYLOAD) + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("stdin: {error}"))?;
    Ok(bytes)
}
