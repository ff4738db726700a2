// SPDX-License-Identifier: Apache-2.0
//! Shell sessions against the real agent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::HashMap;
use std::time::Instant;

use inn_wire::vsh::SetupConnectionRequest;
use support::{Agent, LIMIT, pipes, terminal};

#[test]
fn stdout_and_stderr_stay_apart() {
    let agent = Agent::start();
    let ended = agent.run(&["sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(
        (ended.stdout.as_slice(), ended.stderr.as_slice()),
        (&b"out\n"[..], &b"err\n"[..])
    );
    assert_eq!(ended.code, Some(0));
    agent.wait_childless();
}

#[test]
fn exit_codes() {
    let agent = Agent::start();
    for code in [0, 1, 2, 42, 124, 125, 126, 127, 128, 129, 200, 254, 255] {
        let ended = agent.run(&["sh", "-c", &format!("exit {code}")]);
        assert_eq!(ended.code, Some(code));
    }
    agent.wait_childless();
}

#[test]
fn deaths_by_signal() {
    let agent = Agent::start();
    // 34 is the first real-time signal of glibc.
    for number in [9, 15, 34] {
        let ended = agent.run(&["sh", "-c", &format!("kill -{number} $$")]);
        assert_eq!(ended.code, Some(128 + number));
    }
}

#[test]
fn ten_mebibytes_through_cat() {
    let agent = Agent::start();
    let mut session = agent.session(pipes(&["cat"]));
    let data: Vec<u8> = (0u32..10 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut writer = session.stream.try_clone().unwrap();
    let sent = data.clone();
    let thread = std::thread::spawn(move || {
        use std::io::Write;
        for piece in sent.chunks(4000).chain([&[][..]]) {
            let frame = inn_wire::frame::encode(&support::stdin(piece), 4096).unwrap();
            writer.write_all(&frame).unwrap();
        }
    });
    while session.step() {}
    thread.join().unwrap();
    assert!(
        session.seen.stdout == data,
        "{} bytes came back",
        session.seen.stdout.len()
    );
    assert_eq!(session.seen.code, Some(0));
}

#[test]
fn end_of_input_ends_the_reader() {
    let agent = Agent::start();
    let mut session = agent.session(pipes(&["wc", "-c"]));
    session.stdin(b"12345");
    session.stdin(b"");
    // What follows the end is nobody's.
    session.stdin(b"678");
    assert_eq!(session.finish().text().trim(), "5");
}

#[test]
fn input_nobody_reads_is_taken_after_the_exit() {
    let agent = Agent::start();
    let mut session = agent.session(pipes(&["true"]));
    let piece = [b'x'; 4000];
    for _ in 0..500 {
        if support::write_stdin(&mut session, &piece).is_err() {
            break;
        }
    }
    while session.step() {}
    assert_eq!(session.seen.code, Some(0));
}

#[test]
fn signals_overtake_input_that_is_not_read() {
    let agent = Agent::start();
    let mut session = agent.session(pipes(&["sleep", "1000"]));
    // More than a pipe holds (64 KiB), less than the queue.
    for _ in 0..40 {
        session.stdin(&[b'x'; 4000]);
    }
    session.signal(15);
    assert_eq!(session.finish().code, Some(128 + 15));
}

#[test]
fn large_output_is_complete_at_the_exit() {
    let agent = Agent::start();
    for _ in 0..5 {
        let ended = agent.run(&["sh", "-c", "head -c 3000000 /dev/zero; exit 3"]);
        assert_eq!((ended.stdout.len(), ended.code), (3_000_000, Some(3)));
    }
}

#[test]
fn last_words_of_a_process_with_a_silent_heir() {
    let agent = Agent::start();
    for _ in 0..10 {
        // The pipe's content, 60 kB, outlives its writer; the heir holds it.
        let ended = agent.run(&["sh", "-c", "sleep 12 & head -c 60000 /dev/zero"]);
        assert_eq!(ended.stdout.len(), 60_000);
    }
}

#[test]
fn heirs_do_not_delay_the_exit() {
    let agent = Agent::start();
    for script in ["sleep 12 & echo done", "yes & sleep 0.1"] {
        let begin = Instant::now();
        let ended = agent.run(&["sh", "-c", script]);
        assert_eq!(ended.code, Some(0));
        assert!(
            begin.elapsed() < LIMIT / 2,
            "{script}: {:?}",
            begin.elapsed()
        );
    }
}

#[test]
fn terminal_with_size_resize_and_interrupt() {
    let agent = Agent::start();
    let request = SetupConnectionRequest {
        window_rows: 33,
        window_cols: 77,
        env: HashMap::from([("TERM".to_owned(), "xterm".to_owned())]),
        ..terminal(&[
            "sh",
            "-c",
            "tty; stty size; echo $TERM; trap 'stty size' WINCH; trap 'echo caught; exit 5' INT; echo armed; while :; do sleep 0.05; done",
        ])
    };
    let mut session = agent.session(request);
    session.read_until("the traps", |text| text.contains("armed"));
    let text = session.seen.text();
    assert!(
        text.contains("/dev/pts/") && text.contains("33 77") && text.contains("xterm"),
        "{text}"
    );
    session.resize(40, 100);
    session.read_until("the new size", |text| text.contains("40 100"));
    session.resize(-5, 1 << 20);
    session.read_until("the clamped size", |text| text.contains("1 65535"));
    // ^C through the line discipline.
    session.stdin(&[3]);
    let ended = session.finish();
    assert!(ended.text().contains("caught"));
    assert_eq!(ended.code, Some(5));
    agent.wait_childless();
}

#[test]
fn terminal_signals_reach_the_foreground() {
    let agent = Agent::start();
    let mut session = agent.session(terminal(&["sh", "-c", "echo up; exec sleep 1000"]));
    session.read_until("up", |text| text.contains("up"));
    session.signal(2);
    assert_eq!(session.finish().code, Some(130));
}

#[test]
fn terminal_end_of_input() {
    let agent = Agent::start();
    let mut session = agent.session(terminal(&["cat"]));
    session.stdin(b"hello\n");
    session.stdin(b"");
    let ended = session.finish();
    assert_eq!(
        ended.text().matches("hello").count(),
        2,
        "echo and copy: {:?}",
        ended.text()
    );
    assert_eq!(ended.code, Some(0));
}

#[test]
fn terminal_output_is_complete() {
    let agent = Agent::start();
    for _ in 0..20 {
        let ended = agent
            .session(terminal(&["sh", "-c", "seq 2000; exit 1"]))
            .finish();
        assert!(ended.text().ends_with("2000\r\n"));
        assert_eq!(ended.code, Some(1));
    }
}

#[test]
fn login_shell() {
    let agent = Agent::start();
    let mut session = agent.session(pipes(&[]));
    session.stdin(b"echo \"name $0\"; exit 4\n");
    let ended = session.finish();
    assert!(ended.text().contains("name -"), "{:?}", ended);
    assert_eq!(ended.code, Some(4));
}
