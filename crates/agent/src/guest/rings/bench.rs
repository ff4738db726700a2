// SPDX-License-Identifier: Apache-2.0
//! `inn-guest rings bench`: how many messages a second.

use std::process::ExitCode;
use std::time::Instant;

use inn_librings::wire::abi::{Address, flags};
use inn_librings::wire::{Piece, Sendv};
use inn_librings::{Client, Error};

use super::options::Options;
use super::{ask, bind, connect, said, wait_for_room};

const DEFAULT_COUNT: u64 = 100_000;

pub fn run(options: &Options) -> Result<ExitCode, String> {
    let mut client = connect(options)?;
    let from = Address::new(client.domain(), bind(&mut client, options)?);
    let to = options.to;
    let failed = |error| said(format_args!("{}:{}", to.domain, to.port), error);
    let data = vec![0x55; options.size];
    let count = options.count.unwrap_or(DEFAULT_COUNT);
    let (mut left, mut full) = (count, 0_u64);
    let begin = Instant::now();
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX);
        let batch = wanted.min(options.batch);
        let (taken, refused) = send(&mut client, [from, to], &data, batch).map_err(failed)?;
        left -= taken;
        if refused {
            full += 1;
            wait_for_room(&mut client, to).map_err(failed)?;
        }
    }
    drain(&mut client, to)?;
    let seconds = begin.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)]
    let rate = count as f64 / seconds;
    let (size, batch) = (options.size, options.batch);
    if options.json {
        println!(
            "{{\"messages\": {count}, \"size\": {size}, \"batch\": {batch}, \
             \"seconds\": {seconds:.6}, \"per_second\": {rate:.1}, \"waits\": {full}}}"
        );
    } else {
        println!(
            "{count} messages of {size} bytes in {seconds:.3} s: {rate:.0} a second, \
             {full} waits for room"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends a batch; how many were taken, and whether one found no room.
fn send(
    client: &mut Client,
    addresses: [Address; 2],
    data: &[u8],
    batch: usize,
) -> Result<(u64, bool), Error> {
    let (mut left, mut taken, mut refused, mut worst) = (batch, 0, false, Ok(()));
    client.exchange(
        &mut |output| {
            let more = left > 0;
            if more {
                left -= 1;
                let tag = output.next_tag();
                Sendv::encode(output, tag, addresses, 0, &[Piece::Bytes(data)]);
            }
            more
        },
        &mut |_, result, _| match Error(result.wrapping_neg()) {
            _ if result >= 0 => taken += 1,
            Error::AGAIN => refused = true,
            error => worst = Err(error),
        },
    )?;
    worst.map(|()| (taken, refused))
}

/// Waits until the ring has been read empty.
fn drain(client: &mut Client, to: Address) -> Result<(), String> {
    let failed = |error| said(format_args!("{}:{}", to.domain, to.port), error);
    // Asking for all the room there is puts this end into the line until there is.
    let most = ask(client, to, 0)?.max_message_size;
    loop {
        let entry = ask(client, to, most)?;
        if entry.flags & flags::EXISTS == 0 || entry.flags & flags::EMPTY != 0 {
            return Ok(());
        }
        if entry.flags & flags::SUFFICIENT == 0 {
            wait_for_room(client, to).map_err(failed)?;
        }
    }
}
