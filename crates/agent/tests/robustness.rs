// SPDX-License-Identifier: Apache-2.0
//! Sessions of the real binary against garbage, crowds and lost connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::time::{Duration, Instant};

use inn_wire::vsh::ConnectionStatus;
use support::{Agent, pipes, terminal, until};

fn is_alive(pid: i32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn garbage_ends_only_its_own_session() {
    use std::io::Write;
    let agent = Agent::start();
    let mut bystander = agent.session(pipes(&["cat"]));

    // Instead of a setup request: too long, no protobuf, not UTF-8.
    for bytes in [
        &[0xff; 16][..],
        &[4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        &[3, 0, 0, 0, 0x0a, 1, 0xff],
    ] {
        let mut session = agent.connect();
        session.stream.write_all(bytes).unwrap();
        let response = session.setup_response();
        assert_eq!(response.status(), ConnectionStatus::Failed);
        assert!(session.receive::<inn_wire::vsh::HostMessage>().is_none());
    }
    // In the middle: an oversize frame. The process ends with its session.
    let mut session = agent.session(pipes(&["sleep", "1000"]));
    session.stream.write_all(&[1, 0, 1, 0]).unwrap();
    while session.step() {}
    assert_eq!(session.seen.status, Some(ConnectionStatus::Failed));
    until("the process is gone", || !is_alive(session.pid));
    // Half a frame, then nothing.
    let mut session = agent.connect();
    session.stream.write_all(&[9, 0]).unwrap();
    drop(session);

    bystander.stdin(b"still here");
    bystander.stdin(b"");
    assert_eq!(bystander.finish().text(), "still here");
    agent.wait_childless();
}

#[test]
fn setup_may_be_large_but_not_larger() {
    let agent = Agent::start();
    // Linux takes 128 KiB per argument.
    let long = "x".repeat(100_000);
    let ended = agent.run(&["sh", "-c", "printf %s \"$#\"", "sh", &long, &long, &long]);
    assert_eq!(ended.text(), "3");
    let refusal = agent.refusal(pipes(&["true", &"x".repeat(200_000)]));
    assert_eq!(refusal.error_number, libc::E2BIG);
}

#[test]
fn a_stuck_session_disturbs_nobody() {
    let agent = Agent::start();
    // Nobody reads this one's endless output.
    let stuck = agent.session(pipes(&["yes"]));
    let threads: Vec<_> = (0..19)
        .map(|number| {
            let mut session = agent.session(pipes(&["sh", "-c", "read x; echo $x"]));
            std::thread::spawn(move || {
                session.stdin(format!("{number}\n").as_bytes());
                assert_eq!(session.finish().text(), format!("{number}\n"));
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(is_alive(stuck.pid));
    let pid = stuck.pid;
    drop(stuck);
    until("the stuck process is gone", || !is_alive(pid));
    agent.wait_childless();
}

#[test]
fn too_many_sessions_are_turned_away() {
    let agent = Agent::start();
    let mut idle: Vec<_> = (0..256).map(|_| agent.connect()).collect();
    // Connections are accepted in order: the next one is over the limit.
    let refusal = agent.refusal(pipes(&["true"]));
    assert_eq!(refusal.error_number, libc::EAGAIN);
    idle.clear();
    until("a session is possible again", || {
        let mut session = agent.connect();
        session.send(&pipes(&["true"]));
        session.setup_response().status() == ConnectionStatus::Ready
    });
}

#[test]
fn a_lost_connection_ends_the_process() {
    let agent = Agent::start();
    let session = agent.session(pipes(&["sleep", "1000"]));
    let pid = session.pid;
    drop(session);
    until("SIGHUP has worked", || !is_alive(pid));

    // One that ignores SIGHUP gets two seconds, with its children.
    let mut session = agent.session(pipes(&[
        "sh",
        "-c",
        "trap '' HUP; sleep 1000 & echo $!; while :; do sleep 1000; done",
    ]));
    session.read_until("the child's pid", |text| text.ends_with('\n'));
    let (pid, child) = (session.pid, session.seen.text().trim().parse().unwrap());
    let begin = Instant::now();
    drop(session);
    until("SIGKILL has worked", || !is_alive(pid) && !is_alive(child));
    assert!(begin.elapsed() > Duration::from_secs(1));

    let session = agent.session(terminal(&["sleep", "1000"]));
    let pid = session.pid;
    drop(session);
    until("the terminal has hung up", || !is_alive(pid));
    agent.wait_childless();
}

#[test]
fn a_peer_that_leaves_a_full_queue_is_noticed() {
    let agent = Agent::start();
    let mut session = agent.session(pipes(&["sleep", "1000"]));
    session
        .stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    // Until the pipe, the queue and the socket are full.
    while support::write_stdin(&mut session, &[0; 4000]).is_ok() {}
    let pid = session.pid;
    drop(session);
    until("the process is gone", || !is_alive(pid));
}
