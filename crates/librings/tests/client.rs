// SPDX-License-Identifier: Apache-2.0
//! The client against boards that answer as they are told, and against bad ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{self, JoinHandle};

use inn_librings::wire::abi::{Address, RingData};
use inn_librings::wire::{
    Limits, Notice, Piece, Request, Sendv, What, encode_answer, encode_notice, kind, split,
};
use inn_librings::{Client, Error, Lost, Place};

const HERE: [Address; 2] = [Address::new(7, 9), Address::new(3, 80)];

/// A board that says hello, then does what it is told with each request's kind and tag.
fn board(
    mut act: impl FnMut(u8, u32, &[u8], &mut Vec<u8>) -> bool + Send + 'static,
) -> (Result<Client, Error>, JoinHandle<()>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("board");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut input, mut output) = (vec![], vec![]);
        while let Ok(true) = more(&mut stream, &mut input) {
            let mut open = true;
            while let Some(frame) = split(&input).unwrap() {
                open &= act(frame.kind, frame.tag, frame.body, &mut output);
                let size = frame.size();
                input.drain(..size);
            }
            let written = stream.write_all(&output);
            output.clear();
            if !open || written.is_err() {
                return;
            }
        }
    });
    (
        Client::open(Place::Socket(path.as_os_str().as_bytes())),
        thread,
    )
}

fn more(stream: &mut UnixStream, input: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut bytes = [0; 4096];
    let count = stream.read(&mut bytes)?;
    input.extend_from_slice(&bytes[..count]);
    Ok(count > 0)
}

fn hello(tag: u32, output: &mut Vec<u8>) -> bool {
    let limits = Limits {
        domain: 7,
        max_frame: 1 << 20,
        max_payload: 1 << 20,
        max_requests: 1024,
    };
    encode_answer(output, tag, 0, &[&limits.encode()]);
    true
}

fn notice(port: u32) -> Notice {
    Notice {
        port,
        partner: 3,
        owner: 7,
        what: What::Arrival,
    }
}

#[test]
fn a_batch_is_answered_by_its_numbers_in_any_order() {
    let mut held = vec![];
    let (client, board) = board(move |number, tag, _, output| {
        if number == kind::HELLO {
            return hello(tag, output);
        }
        held.push(tag);
        if held.len() == 1000 {
            encode_notice(output, None, &notice(80));
            for (index, tag) in held.drain(..).enumerate().rev() {
                let result = if index % 10 == 3 { -11 } else { index as i32 };
                encode_answer(output, tag, result, &[]);
            }
        }
        true
    });
    let mut client = client.unwrap();
    assert_eq!(client.domain(), 7);
    let (mut sent, mut results) = (0, vec![None; 1000]);
    client
        .exchange(
            &mut |output| {
                if sent == 1000 {
                    return false;
                }
                sent += 1;
                let tag = output.next_tag();
                Sendv::encode(output, tag, HERE, 0, &[Piece::Bytes(&[1; 2000])]);
                true
            },
            &mut |index, result, _| results[index] = Some(result),
        )
        .unwrap();
    for (index, result) in results.iter().enumerate() {
        let wanted = if index % 10 == 3 { -11 } else { index as i32 };
        assert_eq!(*result, Some(wanted));
    }
    assert_eq!(client.event(0), Ok(Some(Ok(notice(80)))));
    assert_eq!(client.event(0), Ok(None));
    drop(client);
    board.join().unwrap();
}

#[test]
fn refusals_and_what_no_board_reads() {
    let (client, board) = board(|number, tag, _, output| {
        if number == kind::HELLO {
            return hello(tag, output);
        }
        encode_answer(output, tag, -111, &[]);
        true
    });
    let mut client = client.unwrap();
    assert_eq!(
        client.sendv(HERE, 0, &[Piece::Bytes(b"x")]),
        Err(Error(111))
    );
    let long = vec![0; (1 << 20) + 1];
    assert_eq!(
        client.sendv(HERE, 0, &[Piece::Bytes(&long)]),
        Err(Error::MSGSIZE)
    );
    assert_eq!(
        client.notify(&mut [RingData::default(); 258]),
        Err(Error::INVAL)
    );
    drop(client);
    board.join().unwrap();
}

#[test]
fn a_board_that_sends_nonsense_is_told_apart() {
    let cases: [(&[u8], Error); 5] = [
        (&[4, 0, 0, 0, 0x80, 1, 0, 0, 0], Error::PROTO),
        (&[0xff; 9], Error::PROTO),
        // An answer without its result, an event of another size.
        (&[5, 0, 0, 0, 0x80, 2, 0, 0, 0], Error::PROTO),
        (&[6, 0, 0, 0, 0x81, 0, 0, 0, 0, 1], Error::PROTO),
        (&[], Error::CONNRESET),
    ];
    for (bytes, error) in cases {
        let (client, board) = board(move |number, tag, _, output| {
            if number == kind::HELLO {
                return hello(tag, output);
            }
            output.extend_from_slice(bytes);
            false
        });
        let mut client = client.unwrap();
        let failed = client.call(&Request::Unbind(1), &mut []);
        assert_eq!(failed, Err(error), "{bytes:?}");
        board.join().unwrap();
    }
}

#[test]
fn more_events_than_are_kept_are_told_and_a_long_answer_is_cut() {
    let (client, board) = board(|number, tag, _, output| {
        if number == kind::HELLO {
            return hello(tag, output);
        }
        for port in 0..2000 {
            encode_notice(output, None, &notice(port));
        }
        encode_answer(output, tag, 0, &[&[7; 5000]]);
        true
    });
    let mut client = client.unwrap();
    let mut room = [0; 100];
    assert_eq!(
        client.call(&Request::Info, &mut room).map(|(_, len)| len),
        Ok(100)
    );
    let mut count = 0;
    loop {
        match client.event(0).unwrap() {
            Some(Ok(one)) => assert_eq!(one, notice(count)),
            other => {
                assert_eq!(other, Some(Err(Lost)));
                break;
            }
        }
        count += 1;
    }
    assert!(count >= 256);
    assert_eq!(client.event(0), Ok(None));
    drop(client);
    board.join().unwrap();
}

#[test]
fn no_board_and_one_of_another_version() {
    let nowhere = Client::open(Place::Socket(b"/nowhere/at/all"));
    assert_eq!(nowhere.err(), Some(Error(2)));
    let long = [b'x'; 200];
    assert_eq!(Client::open(Place::Socket(&long)).err(), Some(Error::INVAL));
    let (client, board) = board(|_, tag, _, output| {
        encode_answer(output, tag, -93, &[]);
        false
    });
    assert_eq!(client.err(), Some(Error(93)));
    board.join().unwrap();
}
