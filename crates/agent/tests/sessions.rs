// SPDX-License-Identifier: Apache-2.0
//! Shell sessions against the real agent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use inn_wire::vsh::{ConnectionStatus, SetupConnectionRequest};
use support::{Agent, LIMIT, pipes, terminal, until};

fn is_alive(pid: i32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .contains("\nUid:\t0\t0\t")
}

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
        if support_write(&mut session, &piece).is_err() {
            break;
        }
    }
    while session.step() {}
    assert_eq!(session.seen.code, Some(0));
}

fn support_write(session: &mut support::Session, data: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let frame = inn_wire::frame::encode(&support::stdin(data), 4096).unwrap();
    session.stream.write_all(&frame)
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
        let ended = agent.run(&["sh", "-c", "sleep 1000 & head -c 60000 /dev/zero"]);
        assert_eq!(ended.stdout.len(), 60_000);
    }
}

#[test]
fn heirs_do_not_delay_the_exit() {
    let agent = Agent::start();
    for script in ["sleep 1000 & echo done", "yes & sleep 0.1"] {
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

#[test]
fn environment() {
    let agent = Agent::start();
    let env = HashMap::from([
        ("A B".to_owned(), "x=y".to_owned()),
        ("HOME".to_owned(), "/h".to_owned()),
    ]);
    let ended = agent
        .session(SetupConnectionRequest {
            env,
            ..pipes(&["env"])
        })
        .finish();
    let text = ended.text();
    for line in [
        "A B=x=y",
        "HOME=/h",
        "TERM=linux",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} in {text}");
    }
    for name in ["", "A=B", "A\0B"] {
        let env = HashMap::from([(name.to_owned(), String::new())]);
        let refusal = agent.refusal(SetupConnectionRequest {
            env,
            ..pipes(&["env"])
        });
        assert_eq!(refusal.error_number, libc::EINVAL);
    }
}

#[test]
fn nothing_of_the_agent_leaks_into_a_session() {
    let agent = Agent::start();
    let ended = agent.run(&[
        "sh",
        "-c",
        "ls /proc/$$/fd; grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; umask",
    ]);
    let text = ended.text();
    let fds: Vec<&str> = text
        .lines()
        .take_while(|line| !line.starts_with("Sig"))
        .collect();
    assert_eq!(fds, ["0", "1", "2"], "{text}");
    for line in text
        .lines()
        .filter(|line| line.starts_with("SigBlk") || line.starts_with("SigIgn"))
    {
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
}

#[test]
fn working_directory() {
    let agent = Agent::start();
    let at = |cwd: &str| SetupConnectionRequest {
        cwd: cwd.to_owned(),
        ..pipes(&["pwd"])
    };
    assert_eq!(agent.session(at("/usr")).finish().text(), "/usr\n");
    let refusal = agent.refusal(at("/no/such/folder"));
    assert_eq!(refusal.error_number, libc::ENOENT);
    assert!(
        refusal.description.contains("/no/such/folder"),
        "{}",
        refusal.description
    );
    assert_eq!(agent.refusal(at("/etc/passwd")).error_number, libc::ENOTDIR);

    let mut holder = agent.session(SetupConnectionRequest {
        cwd: "/usr/bin".into(),
        ..pipes(&["cat"])
    });
    let request = SetupConnectionRequest {
        cwd: String::new(),
        cwd_pid: holder.pid,
        ..pipes(&["pwd"])
    };
    assert_eq!(agent.session(request).finish().text(), "/usr/bin\n");
    holder.stdin(b"");
    holder.finish();
    let request = SetupConnectionRequest {
        cwd: String::new(),
        cwd_pid: i32::MAX,
        ..pipes(&["pwd"])
    };
    assert_eq!(agent.refusal(request).error_number, libc::ENOENT);
}

#[test]
fn users() {
    let agent = Agent::start();
    let ask = |user: &str| SetupConnectionRequest {
        user: user.to_owned(),
        ..pipes(&["id"])
    };
    let refusal = agent.refusal(ask("nobody-like-this"));
    assert_eq!(refusal.error_number, libc::EINVAL);
    assert!(refusal.description.contains("nobody-like-this"));
    if !is_root() {
        return;
    }
    let text = agent.session(ask("1234:4321")).finish().text();
    assert!(
        text.contains("uid=1234") && text.contains("gid=4321"),
        "{text}"
    );
    assert!(
        !text.contains("0(root)"),
        "no group of the agent's is left: {text}"
    );
    let nobody = agent.session(ask("nobody")).finish().text();
    assert!(nobody.contains("(nobody)"), "{nobody}");
    let request = SetupConnectionRequest {
        nopty: false,
        ..ask("nobody")
    };
    let owner = SetupConnectionRequest {
        argv: vec!["sh".into(), "-c".into(), "stat -c %U $(tty)".into()],
        ..request
    };
    assert!(agent.session(owner).finish().text().contains("nobody"));
}

#[test]
fn not_found_and_not_executable() {
    let agent = Agent::start();
    let file = |name: &str, content: &str, mode: u32| {
        let path = agent.dir.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let errno = |program: &str| agent.refusal(pipes(&[program])).error_number;
    assert_eq!(errno("no-such-command"), libc::ENOENT);
    assert_eq!(errno("/no/such/command"), libc::ENOENT);
    assert_eq!(errno(""), libc::ENOENT);
    assert_eq!(errno(&file("plain", "#!/bin/sh\n", 0o644)), libc::EACCES);
    assert_eq!(errno("/tmp"), libc::EACCES);
    assert_eq!(errno(&file("strange", "no program", 0o755)), libc::ENOEXEC);
    let orphan = file("orphan", "#!/no/such/interpreter\n", 0o755);
    let refusal = agent.refusal(pipes(&[&orphan]));
    assert_eq!(refusal.error_number, libc::ENOENT);
    assert!(refusal.description.contains("interpreter"));

    let env = HashMap::from([("PATH".to_owned(), format!("/no:{}", agent.dir.display()))]);
    let with_path = |name: &str| SetupConnectionRequest {
        env: env.clone(),
        ..pipes(&[name])
    };
    assert_eq!(agent.refusal(with_path("plain")).error_number, libc::EACCES);
    assert_eq!(agent.refusal(with_path("true")).error_number, libc::ENOENT);
    file("mine", "#!/bin/sh\nexit 9\n", 0o755);
    assert_eq!(agent.session(with_path("mine")).finish().code, Some(9));
    agent.wait_childless();
}

#[test]
fn targets() {
    let agent = Agent::start();
    let at = |target: &str| SetupConnectionRequest {
        target: target.to_owned(),
        ..pipes(&["true"])
    };
    assert_eq!(agent.session(at("/vm_shell")).finish().code, Some(0));
    assert_eq!(agent.refusal(at("penguin")).error_number, libc::ENOENT);
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
    while support_write(&mut session, &[0; 4000]).is_ok() {}
    let pid = session.pid;
    drop(session);
    until("the process is gone", || !is_alive(pid));
}
