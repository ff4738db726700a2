// SPDX-License-Identifier: Apache-2.0
//! Programs that a session starts as its user, by `/proc/self/exe NAME`: the
//! agent's binary is there in every guest that has sessions at all.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

/// What `unix-connect` says on stderr once the connection stands. The host
/// waits for it.
const CONNECTED: &[u8] = b"connected\n";

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

fn connect(path: &Path) -> io::Result<()> {
    let stream = UnixStream::connect(path)?;
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
