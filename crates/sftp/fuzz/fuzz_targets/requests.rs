// SPDX-License-Identifier: Apache-2.0
//! Any bytes as a stream of packets: no panic, and paths within their bound.
//! Requests are only read, never carried out: the file system is the fuzzer's own.
#![no_main]

use inn_sftp::packet::read_packet;
use inn_sftp::request::{PATH_LIMIT, Request, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut stream = input;
    let mut packet = Vec::new();
    while let Ok(true) = read_packet(&mut stream, &mut packet) {
        if let Ok((_, Request::RealPath(path))) = parse(&packet) {
            assert!(path.as_os_str().len() < PATH_LIMIT);
        }
    }
    let _ = parse(input);
});
