// SPDX-License-Identifier: Apache-2.0
//! Programs that splice: the kernel holds the lock of their pipe meanwhile, and
//! nobody else may wait for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fs::File;
use std::io::Write;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Agent, Session, pipes, until};

/// A splice that waits, in a thread of this process, as one of the program
/// would: from a socket that never delivers, or to one that takes no more.
struct Holder {
    socket: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Holder {
    /// Holds the pipe that is this descriptor of a process.
    fn new(pid: i32, number: i32) -> Self {
        let mut options = File::options();
        let options = options.read(number == 0).write(number != 0);
        let pipe = options.open(format!("/proc/{pid}/fd/{number}")).unwrap();
        let (socket, mut other) = UnixStream::pair().unwrap();
        if number == 0 {
            other.set_nonblocking(true).unwrap();
            while other.write(&[0; 4096]).is_ok() {}
            other.set_nonblocking(false).unwrap();
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            sender.send(nix::unistd::gettid()).unwrap();
            let (from, to) = if number == 0 {
                (pipe.as_raw_fd(), other.as_raw_fd())
            } else {
                (other.as_raw_fd(), pipe.as_raw_fd())
            };
            let (null, length) = (std::ptr::null_mut(), 4096);
            // SAFETY: both descriptors are open, and no offset is given.
            unsafe { libc::splice(from, null, to, null, length, 0) };
        });
        let task = format!("/proc/self/task/{}/syscall", receiver.recv().unwrap());
        let number = format!("{} ", libc::SYS_splice);
        // The kernel tells the number of a system call only of who sleeps in it.
        until("the splice waits", || {
            std::fs::read_to_string(&task).is_ok_and(|text| text.starts_with(&number))
        });
        Self {
            socket,
            thread: Some(thread),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        let _ = self.thread.take().unwrap().join();
    }
}

/// A session with input that it does not read, so that a splice has something.
fn fed(agent: &Agent) -> Session {
    let mut session = agent.session(pipes(&["sleep", "1000"]));
    session.stdin(b"first");
    let pipe = File::open(format!("/proc/{}/fd/0", session.pid)).unwrap();
    until("the input is in the pipe", || support::unread(&pipe) == 5);
    session
}

fn assert_serves(agent: &Agent) {
    assert_eq!(agent.run(&["echo", "others"]).text(), "others\n");
}

#[test]
fn a_lost_session_is_closed_without_waiting() {
    let agent = Agent::start();
    let session = fed(&agent);
    let held = [0, 1, 2].map(|number| Holder::new(session.pid, number));
    drop(session);
    assert_serves(&agent);
    drop(held);
    agent.wait_childless();
}

#[test]
fn output_that_cannot_be_read_yet_keeps_nobody_waiting() {
    let agent = Agent::start();
    let own = Pid::from_raw(agent.process.id().cast_signed());
    let go = agent.dir.join("go");
    let script = "until [ -e $0 ]; do sleep 0.02; done; echo one; rm $0; exec sleep 1000";
    let mut session = agent.session(pipes(&["sh", "-c", script, go.to_str().unwrap()]));
    // The line is in the pipe, unread, when the splice begins.
    kill(own, Signal::SIGSTOP).unwrap();
    File::create(&go).unwrap();
    until("the line is written", || !go.exists());
    let held = Holder::new(session.pid, 1);
    kill(own, Signal::SIGCONT).unwrap();
    assert_serves(&agent);
    drop(held);
    session.read_until("the line", |text| text == "one\n");
    session.signal(9);
    assert_eq!(session.finish().code, Some(128 + 9));
}

#[test]
fn an_exit_is_told_while_another_holds_the_output() {
    let agent = Agent::start();
    // The heir has the same open file: the first one's end does not close it.
    let script = "sleep 1000 & echo $!; exec sleep 1000";
    let mut session = agent.session(pipes(&["sh", "-c", script]));
    session.read_until("the heir's pid", |text| text.ends_with('\n'));
    let heir = Pid::from_raw(session.seen.text().trim().parse().unwrap());
    let held = Holder::new(session.pid, 1);
    kill(Pid::from_raw(session.pid), Signal::SIGTERM).unwrap();
    assert_eq!(session.finish().code, Some(128 + 15));
    assert_serves(&agent);
    drop(held);
    kill(heir, Signal::SIGKILL).unwrap();
    agent.wait_childless();
}

#[test]
fn input_that_cannot_be_written_yet_keeps_nobody_waiting() {
    let agent = Agent::start();
    let mut session = fed(&agent);
    let held = Holder::new(session.pid, 0);
    session.stdin(b"second");
    session.stdin(b"");
    assert_serves(&agent);
    drop(held);
    session.signal(9);
    assert_eq!(session.finish().code, Some(128 + 9));
    agent.wait_childless();
}
