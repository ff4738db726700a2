// SPDX-License-Identifier: Apache-2.0
//! The announcement and the command line, against the real agent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::process::Command;

use support::{Agent, Announcement, binary, until};

#[test]
fn hello_says_who_and_when() {
    let (_agent, announcement) = Agent::start_with(&[]);
    let hello = announcement.hello;
    assert_eq!(hello.agent_version, env!("CARGO_PKG_VERSION"));
    assert!(!hello.is_init);
    assert_eq!(hello.boot_id.len(), 36);
    assert!(hello.started_ns > 0 && hello.ready_ns >= hello.started_ns);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(hello.kernel_release, release.trim());
}

#[test]
fn it_comes_back_after_every_break() {
    let (agent, mut announcement) = Agent::start_with(&[]);
    for _ in 0..3 {
        announcement.welcome(1);
        drop(announcement);
        announcement = Announcement::accept(&agent.host);
    }
    // A host that talks nonsense is left and called again.
    announcement.send_raw(&[0xff; 8]);
    let again = Announcement::accept(&agent.host);
    assert!(again.hello.ready_ns > again.hello.started_ns);
}

#[test]
fn it_serves_without_a_host() {
    let agent = Agent::start();
    std::fs::remove_file(agent.socket(7777)).unwrap();
    assert_eq!(agent.run(&["echo", "alone"]).text(), "alone\n");
    assert_eq!(agent.run(&["true"]).code, Some(0));
}

#[test]
fn a_service_ends_on_sigterm_with_its_sessions() {
    let mut agent = Agent::start();
    let session = agent.session(support::pipes(&["sleep", "1000"]));
    let pid = i32::try_from(agent.process.id()).unwrap();
    // SAFETY: kill takes two integers; the pid is our child's.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
    let mut status = None;
    until("the agent has ended", || {
        status = agent.process.try_wait().unwrap();
        status.is_some()
    });
    assert!(status.unwrap().success());
    until("its sessions have ended", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", session.pid));
        stat.map_or(true, |stat| stat.contains(") Z "))
    });
}

#[test]
fn command_line() {
    let output = Command::new(binary()).arg("--version").output().unwrap();
    let version = format!("inn-agent {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), version);
    for args in [&[][..], &["nonsense"], &["serve", "--nonsense"], &["init"]] {
        let output = Command::new(binary()).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("usage:"));
    }
    let missing = ["serve", "--unix-dir", "/no/such/folder"];
    let output = Command::new(binary()).args(missing).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}
