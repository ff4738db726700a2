// SPDX-License-Identifier: Apache-2.0
//! `inn-guest proxy`: connections to one address become connections to another.
//!
//! Each direction of a connection ends by itself. A reader that is slow holds up
//! its own connection only: a buffer's worth of bytes is all that waits here.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, getsockopt, setsockopt, shutdown, sockopt};
use tokio::io::Interest;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::address::Address;
use super::arguments::Arguments;
use super::hosts::Hosts;
use super::sockets::{self, Target, explained};
use super::{Command, failed, usage_error};
use crate::stream::{Stream, register};

/// The command.
pub const COMMAND: Command = Command {
    name: "proxy",
    summary: "lead connections from one address to another: TCP, vsock, Unix sockets",
    help: HELP,
    run,
};

const HELP: &str = "\
usage: inn-guest proxy [OPTION]... LISTEN CONNECT [LISTEN CONNECT]...

Takes connections to LISTEN and leads each to CONNECT, until SIGTERM or SIGINT.
Says `listening on LISTEN` on stderr for each, once it does.

  tcp:HOST:PORT    HOST is an address or a name in /etc/hosts; left out, it means
                   all addresses to listen on, 127.0.0.1 to connect to
  vsock:PEER:PORT  PEER is a machine (`web` or `web.inn`), `host`, or a CID. In
                   LISTEN it is the only one that may connect; left out, everybody
                   may whom the topology's rules let
  unix:PATH        a Unix socket; unix:@NAME is an abstract one

  -n, --max-connections N    most connections at a time [256]; more wait
  -t, --connect-timeout S    give CONNECT up after so many seconds [10]

An end of file is passed on by itself, and the other direction goes on. Where one
side breaks, the other is broken too (over TCP by a reset), so that nobody takes
half of a message for all of it. Peers are looked up for each connection.

  inn-guest proxy tcp:127.0.0.1:8080 vsock:web:80   # web's port 80 as a local one
  inn-guest proxy vsock::22 tcp:127.0.0.1:22        # our sshd for other machines

Exit status: 0 after a signal; 1 where it cannot listen; 2 for wrong usage.
";

const DEFAULT_CONNECTIONS: usize = 256;
/// Each connection has two descriptors.
const MOST_CONNECTIONS: usize = 16384;
const DEFAULT_PATIENCE_S: u64 = 10;
const MOST_PATIENCE_S: u64 = 3600;

/// Bytes under way in each direction of a connection.
const BUFFER: usize = 32 << 10;

/// Pause after accept failed for want of descriptors or memory.
const SHORTAGE: Duration = Duration::from_millis(100);
/// Pause before trying again a Unix socket whose backlog is full.
const BACKLOG_FULL: Duration = Duration::from_millis(20);

/// The same complaint comes once in this time.
const QUIET: Duration = Duration::from_secs(5);
/// Complaints that are remembered.
const REMEMBERED: usize = 256;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    pairs: Vec<(Address, Address)>,
    connections: usize,
    patience: Duration,
}

fn run(args: &[OsString]) -> ExitCode {
    let options = match parse(args) {
        Ok(options) => options,
        Err(problem) => return usage_error(&COMMAND, &problem),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(serve(options)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&COMMAND, error),
    }
}

fn parse(args: &[OsString]) -> Result<Options, String> {
    let mut arguments = Arguments::new(args);
    let (mut addresses, mut connections, mut patience_s) =
        (Vec::new(), DEFAULT_CONNECTIONS, DEFAULT_PATIENCE_S);
    while let Some(word) = arguments.next() {
        match word.to_str() {
            Some(option @ ("-n" | "--max-connections")) => {
                connections = arguments.number(option, 1..=MOST_CONNECTIONS as u64)? as usize;
            }
            Some(option @ ("-t" | "--connect-timeout")) => {
                patience_s = arguments.number(option, 1..=MOST_PATIENCE_S)?;
            }
            Some(option) if option.starts_with('-') => {
                return Err(format!("no option {option}"));
            }
            _ => addresses.push(Address::parse(&word)?),
        }
    }
    if addresses.is_empty() || addresses.len() % 2 != 0 {
        return Err("give LISTEN and CONNECT, or several such pairs".to_owned());
    }
    let hybrid = |address: &&Address| matches!(address, Address::Hybrid { .. });
    if let Some(address) = addresses.iter().find(hybrid) {
        return Err(format!("{address}: a proxy cannot lead there"));
    }
    let pairs = addresses.chunks_exact(2);
    Ok(Options {
        pairs: pairs.map(|two| (two[0].clone(), two[1].clone())).collect(),
        connections,
        patience: Duration::from_secs(patience_s),
    })
}

/// What all connections share.
struct Shared {
    slots: Arc<Semaphore>,
    patience: Duration,
    complaints: Complaints,
}

async fn serve(options: Options) -> Result<(), String> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let shared = Arc::new(Shared {
        slots: Arc::new(Semaphore::new(options.connections)),
        patience: options.patience,
        complaints: Complaints::default(),
    });
    // All of them first: half a proxy is none.
    let mut doors = Vec::new();
    for (listen, connect) in options.pairs {
        doors.push((Door::open(&listen)?, listen, connect));
    }
    let mut cleanup = Vec::new();
    for (mut door, listen, connect) in doors {
        say(format!("listening on {listen}"));
        cleanup.extend(door.cleanup.take());
        tokio::spawn(take_all(door, connect, Arc::clone(&shared)));
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// A Unix socket's file, which goes with the proxy.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A listening socket.
struct Door {
    fd: tokio::io::unix::AsyncFd<OwnedFd>,
    /// The only machine that may connect.
    only: Option<String>,
    cleanup: Option<SocketFile>,
}

impl Door {
    fn open(address: &Address) -> Result<Self, String> {
        let hosts = Hosts::read();
        let options = sockets::Options {
            blocking: false,
            buffer_bytes: None,
        };
        let target = Target::to_listen(address, &hosts)?;
        let mut bound = target.listen(options);
        if let (Err(error), Address::Unix(path)) = (&bound, address) {
            // What a proxy that was killed left would be in the way for ever.
            if error.raw_os_error() == Some(libc::EADDRINUSE) && is_stale(address) {
                let _ = std::fs::remove_file(path);
                bound = target.listen(options);
            }
        }
        let explain = |error| explained(address, &error);
        let fd = register(bound.map_err(explain)?, Interest::READABLE).map_err(explain)?;
        Ok(Self {
            fd,
            only: match address {
                Address::Vsock { peer, .. } if !peer.is_empty() => Some(peer.clone()),
                _ => None,
            },
            cleanup: match address {
                Address::Unix(path) if !path.as_os_str().as_encoded_bytes().starts_with(b"@") => {
                    Some(SocketFile(path.clone()))
                }
                _ => None,
            },
        })
    }

    /// The next connection of somebody who may connect.
    async fn accept(&self) -> Stream {
        loop {
            let accepted = self
                .fd
                .async_io(Interest::READABLE, sockets::accept_one)
                .await;
            match accepted {
                Ok(fd) if self.is_welcome(&fd) => {
                    sockets::without_delay(&fd);
                    match Stream::new(fd) {
                        Ok(stream) => return stream,
                        Err(_) => sleep(SHORTAGE).await,
                    }
                }
                Ok(_) => {}
                Err(_) => sleep(SHORTAGE).await,
            }
        }
    }

    fn is_welcome(&self, fd: &OwnedFd) -> bool {
        // Looked up each time: the topology may have got it meanwhile.
        self.only.as_deref().is_none_or(|peer| {
            Hosts::read()
                .cid(peer)
                .is_ok_and(|cid| sockets::comes_from(fd, cid))
        })
    }
}

/// Whether the file of a Unix socket is left over: nobody listens.
fn is_stale(address: &Address) -> bool {
    let options = sockets::Options {
        blocking: false,
        buffer_bytes: None,
    };
    Target::to_connect(address, &Hosts::default()).is_ok_and(|target| {
        target
            .connect(options)
            .is_err_and(|error| error.raw_os_error() == Some(libc::ECONNREFUSED))
    })
}

async fn take_all(door: Door, connect: Address, shared: Arc<Shared>) {
    let connect = Arc::new(connect);
    // Whoever comes while all slots are taken waits in the socket's backlog.
    while let Ok(slot) = Arc::clone(&shared.slots).acquire_owned().await {
        let near = door.accept().await;
        let (connect, shared) = (Arc::clone(&connect), Arc::clone(&shared));
        tokio::spawn(async move {
            match timeout(shared.patience, dial(&connect)).await {
                Ok(Ok(far)) => join(&near, &far).await,
                Ok(Err(problem)) => {
                    shared.complaints.say(problem);
                    break_off(&near);
                }
                Err(_) => {
                    let error = io::Error::from(Errno::ETIMEDOUT);
                    shared.complaints.say(explained(&connect, &error));
                    break_off(&near);
                }
            }
            drop(slot);
        });
    }
}

async fn dial(address: &Address) -> Result<Stream, String> {
    let target = Target::to_connect(address, &Hosts::read())?;
    let explain = |error| explained(address, &error);
    let options = sockets::Options {
        blocking: false,
        buffer_bytes: None,
    };
    loop {
        match target.connect(options) {
            Ok((fd, connected)) => {
                sockets::without_delay(&fd);
                let stream = Stream::new(fd).map_err(explain)?;
                if !connected {
                    stream.writable().await.map_err(explain)?;
                    match getsockopt(&stream, sockopt::SocketError)
                        .map_err(|e| explain(e.into()))?
                    {
                        0 => {}
                        error => return Err(explain(io::Error::from_raw_os_error(error))),
                    }
                }
                return Ok(stream);
            }
            // A Unix socket's way of saying that its backlog is full.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => sleep(BACKLOG_FULL).await,
            Err(error) => return Err(explain(error)),
        }
    }
}

/// Carries both directions to their ends.
async fn join(near: &Stream, far: &Stream) {
    if tokio::try_join!(pump(near, far), pump(far, near)).is_err() {
        break_off(near);
        break_off(far);
    }
}

/// Carries one direction to its end; an error is one of the side that is read.
async fn pump(from: &Stream, to: &Stream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read_some(&mut buffer).await?;
        if count == 0 {
            let _ = to.finish();
            return Ok(());
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            // Nobody takes more, but what comes back may still be for somebody.
            let _ = shutdown(from.as_fd().as_raw_fd(), Shutdown::Read);
            return Ok(());
        }
    }
}

/// Lets the close of a TCP connection be a reset.
fn break_off(stream: &Stream) {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // On vsock it would do nothing, and on Unix sockets neither.
    let _ = setsockopt(stream, sockopt::Linger, &at_once);
}

/// A line for whoever watches.
fn say(line: impl std::fmt::Display) {
    let _ = io::stderr().write_all(format!("inn-guest proxy: {line}\n").as_bytes());
}

/// Says what goes wrong, but not a thousand times.
#[derive(Default)]
struct Complaints(Mutex<HashMap<String, (Instant, u64)>>);

impl Complaints {
    fn say(&self, text: String) {
        if let Some(line) = self.line(text, Instant::now()) {
            say(line);
        }
    }

    /// The line to print, if one is due.
    fn line(&self, text: String, now: Instant) -> Option<String> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((said, more)) = known.get_mut(&text) {
            if now.duration_since(*said) < QUIET {
                *more += 1;
                return None;
            }
            let more = std::mem::replace(more, 0);
            *said = now;
            return Some(match more {
                0 => text,
                _ => format!("{text} (and {more} times before)"),
            });
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(text.clone(), (now, 0));
        Some(text)
    }
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
