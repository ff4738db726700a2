// SPDX-License-Identifier: Apache-2.0
//! Both sides over a socket pair, and the command line.

use std::os::unix::net::UnixStream;
use std::thread;

use super::measure::{move_bytes, round_trips};
use super::protocol::{Mode, Request};
use super::*;

fn parsed(words: &[&str]) -> Result<Options, String> {
    parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
}

#[test]
fn options_have_defaults_and_bounds() {
    let options = parsed(&["ping", "vsock:web:5001"]).unwrap();
    assert_eq!((options.size_bytes, options.count), (1, DEFAULT_COUNT));
    let words = [
        "send",
        "-s",
        "1G",
        "--buffer=1M",
        "-d",
        "--format",
        "json",
        "tcp:h:1",
    ];
    let options = parsed(&words).unwrap();
    assert_eq!(options.size_bytes, 1 << 30);
    assert_eq!(options.buffer_bytes, 1 << 20);
    assert!(options.digest && options.json);
    for words in [
        &["send"][..],
        &["receive", "tcp:h:1"],
        &["send", "tcp:h:1", "tcp:h:2"],
        &["send", "--buffer", "17M", "tcp:h:1"],
        &["ping", "--size", "17M", "tcp:h:1"],
        &["send", "--format", "xml", "tcp:h:1"],
        &["send", "--fast", "tcp:h:1"],
    ] {
        assert!(parsed(words).is_err(), "{words:?}");
    }
}

#[test]
fn both_directions_agree_on_bytes_and_digest() {
    for mode in [Mode::Take, Mode::Give] {
        let (near, far) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || serve::serve(far));
        let request = Request {
            mode,
            digest: true,
            buffer_bytes: 5000,
            size_bytes: 1_000_001,
        };
        let (ours, theirs) = move_bytes(near, &request).unwrap();
        assert_eq!(ours.bytes, 1_000_001);
        assert_eq!((ours.bytes, ours.digest), (theirs.bytes, theirs.digest));
        assert_ne!(ours.digest, [0; 32]);
        server.join().unwrap().unwrap();
    }
}

#[test]
fn round_trips_are_counted_without_the_first() {
    let (near, far) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || serve::serve(far));
    let request = Request {
        mode: Mode::Echo,
        digest: false,
        buffer_bytes: 1,
        size_bytes: 300,
    };
    let times = round_trips(near, &request, 7).unwrap();
    assert_eq!(times.len(), 7);
    assert!(times.is_sorted());
    server.join().unwrap().unwrap();
}

#[test]
fn strangers_are_turned_away() {
    let (mut near, far) = UnixStream::pair().unwrap();
    std::io::Write::write_all(&mut near, &[b'G'; 32]).unwrap();
    assert!(
        serve::serve(far)
            .unwrap_err()
            .to_string()
            .contains("no `inn-guest throughput`")
    );
}
