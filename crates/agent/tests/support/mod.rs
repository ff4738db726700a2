// SPDX-License-Identifier: Apache-2.0
//! Starts the real agent on Unix sockets in a folder of its own, and speaks
//! the real protocol to it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use inn_wire::announce::{AgentMessage, Hello, Welcome, agent_message};
use inn_wire::frame::{FrameDecoder, MESSAGE_LIMIT, SETUP_LIMIT, encode};
use inn_wire::vsh::{
    ConnectionStatus, DataMessage, GuestMessage, HostMessage, SetupConnectionRequest,
    SetupConnectionResponse, StdioStream, WindowResizeMessage, guest_message, host_message,
};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use prost::Message;

/// No single wait in these tests is longer.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A running agent with its folder and the host's side of the announcement.
pub struct Agent {
    pub dir: PathBuf,
    pub process: Child,
    pub host: UnixListener,
}

impl Agent {
    /// Starts an agent and waits until it says that it listens.
    pub fn start() -> Self {
        Self::start_with(&[]).0
    }

    pub fn start_with(env: &[(&str, &str)]) -> (Self, Announcement) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("inn-agent-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let host = UnixListener::bind(dir.join("7777.sock")).unwrap();
        let process = Command::new(binary())
            .args(["serve", "--unix-dir"])
            .arg(&dir)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { dir, process, host };
        let announcement = Announcement::accept(&agent.host);
        (agent, announcement)
    }

    pub fn socket(&self, port: u32) -> PathBuf {
        self.dir.join(format!("{port}.sock"))
    }

    /// A connection to the shell port.
    pub fn connect(&self) -> Session {
        Session::new(UnixStream::connect(self.socket(9001)).unwrap())
    }

    /// A session that must become ready.
    pub fn session(&self, request: SetupConnectionRequest) -> Session {
        let mut session = self.connect();
        session.send(&request);
        let response = session.setup_response();
        assert_eq!(
            response.status(),
            ConnectionStatus::Ready,
            "{}",
            response.description
        );
        session.pid = response.pid;
        session
    }

    /// The refusal of a session that must not become ready.
    pub fn refusal(&self, request: SetupConnectionRequest) -> SetupConnectionResponse {
        let mut session = self.connect();
        session.send(&request);
        let response = session.setup_response();
        assert_eq!(response.status(), ConnectionStatus::Failed);
        assert_ne!(response.error_number, 0);
        assert!(!response.description.is_empty());
        response
    }

    /// Runs a command with pipes to its end.
    pub fn run(&self, argv: &[&str]) -> Ended {
        let mut session = self.session(pipes(argv));
        session.stdin(b"");
        session.finish()
    }

    /// Waits until the agent has no children, not even zombies.
    pub fn wait_childless(&self) {
        let pid = self.process.id();
        let path = format!("/proc/{pid}/task/{pid}/children");
        // Sessions fork on other threads, whose children are listed there.
        until("the agent has no children", || {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let children = tasks.filter_map(|task| {
                std::fs::read_to_string(task.ok()?.path().join("children")).ok()
            });
            assert!(Path::new(&path).exists());
            children.collect::<String>().trim().is_empty()
        });
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Each session leads a process group; a killed agent cannot end them.
        let groups = children(self.process.id());
        let _ = self.process.kill();
        for group in groups {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The binary under test; `INN_AGENT_BIN` names another, such as the static one.
pub fn binary() -> PathBuf {
    std::env::var_os("INN_AGENT_BIN")
        .map_or_else(|| env!("CARGO_BIN_EXE_inn-agent").into(), PathBuf::from)
}

/// Waits for a condition that nothing announces.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn pipes(argv: &[&str]) -> SetupConnectionRequest {
    SetupConnectionRequest {
        nopty: true,
        ..terminal(argv)
    }
}

pub fn terminal(argv: &[&str]) -> SetupConnectionRequest {
    SetupConnectionRequest {
        argv: argv.iter().map(|text| (*text).to_owned()).collect(),
        cwd: "/".to_owned(),
        ..Default::default()
    }
}

/// What a session left.
#[derive(Debug, Default)]
pub struct Ended {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub stdout_ended: bool,
    pub stderr_ended: bool,
    pub code: Option<i32>,
    pub status: Option<ConnectionStatus>,
}

impl Ended {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// The host's side of a session.
pub struct Session {
    pub stream: UnixStream,
    pub pid: i32,
    decoder: FrameDecoder,
    pub seen: Ended,
}

impl Session {
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        let decoder = FrameDecoder::new(4096);
        Self {
            stream,
            pid: 0,
            decoder,
            seen: Ended::default(),
        }
    }

    pub fn send(&mut self, message: &impl Message) {
        self.stream
            .write_all(&encode(message, SETUP_LIMIT).unwrap())
            .unwrap();
    }

    pub fn setup_response(&mut self) -> SetupConnectionResponse {
        self.receive().expect("a setup response")
    }

    pub fn stdin(&mut self, data: &[u8]) {
        self.send(&stdin(data));
    }

    pub fn signal(&mut self, number: i32) {
        self.send(&GuestMessage {
            msg: Some(guest_message::Msg::Signal(number)),
        });
    }

    pub fn resize(&mut self, rows: i32, cols: i32) {
        let size = WindowResizeMessage { rows, cols };
        self.send(&GuestMessage {
            msg: Some(guest_message::Msg::ResizeMessage(size)),
        });
    }

    /// The next message; `None` at the end of the connection.
    pub fn receive<M: Message + Default>(&mut self) -> Option<M> {
        let mut buffer = [0; 16 << 10];
        loop {
            if let Some(message) = self.decoder.next_message().expect("valid frames") {
                return Some(message);
            }
            match read_once(&mut self.stream, &mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.decoder.feed(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("reading: {error}"),
            }
        }
    }

    /// Takes one message in; false at the end of the connection.
    pub fn step(&mut self) -> bool {
        match self.receive::<HostMessage>() {
            None => false,
            Some(message) => {
                self.take(message);
                true
            }
        }
    }

    fn take(&mut self, message: HostMessage) {
        assert_eq!(self.seen.code, None, "nothing follows the status");
        match message.msg.expect("a known message") {
            host_message::Msg::DataMessage(data) => {
                assert!(data.data.len() <= 4000);
                let (kept, ended) = match data.stream() {
                    StdioStream::StdoutStream => {
                        (&mut self.seen.stdout, &mut self.seen.stdout_ended)
                    }
                    StdioStream::StderrStream => {
                        (&mut self.seen.stderr, &mut self.seen.stderr_ended)
                    }
                    other => panic!("{other:?}"),
                };
                assert!(!*ended, "data after the end");
                *ended = data.data.is_empty();
                kept.extend_from_slice(&data.data);
            }
            host_message::Msg::StatusMessage(status) => {
                self.seen.code = Some(status.code);
                self.seen.status = Some(status.status());
            }
        }
    }

    /// Reads until the output so far satisfies `condition`.
    pub fn read_until(&mut self, what: &str, condition: impl Fn(&str) -> bool) {
        while !condition(&self.seen.text()) {
            assert!(self.step(), "ended before {what}: {:?}", self.seen.text());
        }
    }

    /// Reads to the end, which must be orderly.
    pub fn finish(mut self) -> Ended {
        while self.step() {}
        assert!(
            self.seen.stdout_ended && self.seen.stderr_ended,
            "{:?}",
            self.seen
        );
        assert_eq!(self.seen.status, Some(ConnectionStatus::Exited));
        self.seen
    }
}

pub fn stdin(data: &[u8]) -> GuestMessage {
    let data = Bytes::copy_from_slice(data);
    let stream = StdioStream::StdinStream.into();
    GuestMessage {
        msg: Some(guest_message::Msg::DataMessage(DataMessage {
            stream,
            data,
        })),
    }
}

/// The host's side of an announcement.
pub struct Announcement {
    stream: UnixStream,
    decoder: FrameDecoder,
    pub hello: Hello,
}

impl Announcement {
    pub fn accept(host: &UnixListener) -> Self {
        // A bounded accept: the listener waits no longer than its clients.
        host.set_nonblocking(true).unwrap();
        let mut accepted = None;
        until("the agent announces itself", || {
            accepted = host.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let decoder = FrameDecoder::new(MESSAGE_LIMIT);
        let mut announcement = Self {
            stream,
            decoder,
            hello: Hello::default(),
        };
        announcement.hello = match announcement.receive() {
            agent_message::Msg::Hello(hello) => hello,
            other => panic!("{other:?}"),
        };
        announcement
    }

    pub fn receive(&mut self) -> agent_message::Msg {
        let mut buffer = [0; 4096];
        loop {
            if let Some(message) = self.decoder.next_message::<AgentMessage>().unwrap() {
                return message.msg.unwrap();
            }
            let count = read_once(&mut self.stream, &mut buffer).unwrap();
            assert_ne!(count, 0, "the announcement ended");
            self.decoder.feed(&buffer[..count]);
        }
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn welcome(&mut self, wall_clock_ns: u64) {
        use inn_wire::announce::{HostMessage, host_message::Msg};
        let message = HostMessage {
            msg: Some(Msg::Welcome(Welcome { wall_clock_ns })),
        };
        self.stream
            .write_all(&encode(&message, MESSAGE_LIMIT).unwrap())
            .unwrap();
    }
}

/// One read, also where a signal comes: a socket with a time limit does not go
/// on by itself, and the agents of tests beside this one end with SIGCHLD.
fn read_once(stream: &mut UnixStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Writes stdin data; fails once the agent has gone.
pub fn write_stdin(session: &mut Session, data: &[u8]) -> std::io::Result<()> {
    let frame = inn_wire::frame::encode(&stdin(data), 4096).unwrap();
    session.stream.write_all(&frame)
}

/// The children of all threads of a process.
fn children(pid: u32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let lists = tasks.into_iter().flatten().flatten();
    lists
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|child| child.parse().ok())
                .collect::<Vec<i32>>()
        })
        .collect()
}

/// Bytes that wait in a pipe.
pub fn unread(pipe: &std::fs::File) -> i32 {
    let mut count = 0;
    // SAFETY: FIONREAD writes one int, which `count` is, and nothing else.
    unsafe { nix::libc::ioctl(pipe.as_raw_fd(), nix::libc::FIONREAD, &raw mut count) };
    count
}
