// SPDX-License-Identifier: Apache-2.0
//! Programs that a session starts as its user, by `/proc/self/exe NAME`: the
//! agent's binary is there in every guest that has sessions at all.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, VsockAddr, accept4, bind, listen, socket,
};

/// What an applet says on stderr once its connection stands. The host waits
/// for it.
const CONNECTED: &[u8] = b"connected\n";
const LISTENING: &[u8] = b"listening\n";

/// SFTP on stdin and stdout.
pub fn sftp_server() -> ExitCode {
    finish(
        "sftp-server",
        inn_sftp::serve(io::stdin().lock(), io::stdout().lock()),
    )
}

/// stdin and stdout as one end of a Unix socket's connection.
pub fn unix_connect(path: &Path) -> ExitCode {
    finish("unix-connect", connect(path))
}

/// stdin and stdout as one end of a connection to a port of another guest.
pub fn vsock_connect(cid: u32, port: u32) -> ExitCode {
    finish("vsock-connect", dial(cid, port).and_then(relay))
}

/// stdin and stdout as one end of the next connection to a port of this guest.
pub fn vsock_listen(port: u32) -> ExitCode {
    finish("vsock-listen", take(port).and_then(relay))
}

fn connect(path: &Path) -> io::Result<()> {
    relay(UnixStream::connect(path)?)
}

fn vsock() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Vsock, SockType::Stream, flags, None)?)
}

fn dial(cid: u32, port: u32) -> io::Result<UnixStream> {
    let fd = vsock()?;
    socket::connect(fd.as_raw_fd(), &VsockAddr::new(cid, port))?;
    // Read, write and shut down are the same for every stream socket.
    Ok(UnixStream::from(fd))
}

fn take(port: u32) -> io::Result<UnixStream> {
    let fd = vsock()?;
    bind(fd.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, port))?;
    listen(&fd, Backlog::new(1)?)?;
    io::stderr().write_all(LISTENING)?;
    let taken = accept4(fd.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: accept4 has just returned this descriptor; nothing else owns it.
    Ok(UnixStream::from(unsafe { OwnedFd::from_raw_fd(taken) }))
}

fn relay(stream: UnixStream) -> io::Result<()> {
    io::stderr().write_all(CONNECTED)?;
    std::thread::scope(|scope| {
        let (to, from) = (&stream, &stream);
        scope.spawn(move || {
            let _ = pass_on(io::stdin().lock(), to);
            let _ = to.shutdown(Shutdown::Write);
        });
        let copied = pass_on(from, io::stdout().lock());
        // Each end's end of file is passed on by itself: ours is closed while
        // the other direction goes on.
        let null = OpenOptions::new().write(true).open("/dev/null")?;
        nix::unistd::dup2_stdout(&null)?;
        copied
    })
}

/// All bytes up to the end of file.
///
/// Not `io::copy`, which splices: before Linux 6.8 a splice from a socket holds
/// the pipe's lock while it waits for bytes, and the agent, which reads the other
/// end of that pipe, would wait for the lock even though it asked not to wait.
fn pass_on(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = [0; 32 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(buffer.get(..count).unwrap_or_default())?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn finish(name: &str, result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The client left, which is how most connections end.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{name}: {error}");
            ExitCode::FAILURE
        }
    }
}
