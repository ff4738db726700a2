// SPDX-License-Identifier: Apache-2.0
//! A login shell on the guest's console (`inn.console=shell`), for when nothing
//! else answers. It needs no vsock, so it starts before the servers listen.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::termios::{
    ControlFlags, InputFlags, LocalFlags, OutputFlags, SetArg, tcgetattr, tcsetattr,
};
use nix::unistd::Uid;
use tokio::time::{Instant, sleep};

use crate::agent::Agent;
use crate::process::environment::Environment;
use crate::process::limit::{START_WINDOW, StartLimit};
use crate::process::reaper::{Child, Reaper};
use crate::process::spawn::{Plan, c_strings, spawn};
use crate::process::users::Database;

/// Names of the consoles, the one that /dev/console stands for last.
const ACTIVE: &str = "/sys/class/tty/console/active";

/// What agetty assumes of a terminal at the other end of a serial line.
const TERMINAL_TYPE: &str = "vt220";

/// Keeps a shell on the console until the end of the guest begins.
pub async fn run(agent: Arc<Agent>) {
    let mut limit = StartLimit::default();
    while !agent.is_stopping() {
        if !limit.allows(Instant::now()) {
            agent
                .failures
                .report("console shell", "it ends again and again");
            sleep(START_WINDOW).await;
            continue;
        }
        match start(&agent.reaper).await {
            Ok(mut child) => tokio::select! {
                _ = child.exited() => {}
                () = Agent::stopped(agent.conversations()) => {
                    // An interactive shell ignores SIGTERM, as it may.
                    agent.reaper.signal_group(child.pid, Signal::SIGHUP);
                }
            },
            Err(error) => agent.failures.report("console shell", error),
        }
    }
}

/// Starts on a thread that may block.
async fn start(reaper: &Reaper) -> std::io::Result<Child> {
    let reaper = reaper.clone();
    let started = tokio::task::spawn_blocking(move || start_now(&reaper)).await;
    started.map_err(std::io::Error::other)?
}

fn start_now(reaper: &Reaper) -> std::io::Result<Child> {
    let account = Database::read(Path::new("/etc")).by_uid(Uid::effective().as_raw());
    let mut env = Environment::login(&account);
    env.extend(HashMap::from([("TERM".into(), TERMINAL_TYPE.into())]))
        .map_err(std::io::Error::other)?;
    let name = account.shell.rsplit('/').next().unwrap_or_default();
    let terminal = open_terminal(&terminal_path(&std::fs::read_to_string(ACTIVE)?))?;
    let plan = Plan {
        programs: c_strings(env.candidates(&account.shell))?,
        // A login shell knows that it is one by the dash.
        argv: c_strings([format!("-{name}")])?,
        env: env.into_strings()?,
        cwd: c_strings([account.home.as_str(), "/"])?,
        identity: None,
        stdio: [terminal.try_clone()?, terminal.try_clone()?, terminal],
        terminal: true,
    };
    reaper.start(|| spawn(plan)).map_err(std::io::Error::other)
}

/// The device behind /dev/console, which itself cannot be a controlling terminal.
fn terminal_path(active: &str) -> PathBuf {
    let name = active.split_ascii_whitespace().last().unwrap_or("console");
    Path::new("/dev").join(name)
}

/// Opens the terminal anew, since the end of a session hangs its line up, and
/// undoes what the last program left of its settings.
fn open_terminal(path: &Path) -> std::io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;

    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NOCTTY.bits())
        .open(path)
        .map_err(|error| {
            std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
    let mut settings = tcgetattr(&file)?;
    settings.input_flags = InputFlags::ICRNL | InputFlags::IXON | InputFlags::IUTF8;
    settings.output_flags = OutputFlags::OPOST | OutputFlags::ONLCR;
    settings.local_flags = LocalFlags::ISIG
        | LocalFlags::ICANON
        | LocalFlags::IEXTEN
        | LocalFlags::ECHO
        | LocalFlags::ECHOE
        | LocalFlags::ECHOK
        | LocalFlags::ECHOCTL
        | LocalFlags::ECHOKE;
    settings.control_flags |= ControlFlags::CREAD | ControlFlags::CLOCAL;
    tcsetattr(&file, SetArg::TCSANOW, &settings)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_console_is_the_terminal() {
        assert_eq!(terminal_path("tty0 ttyS0\n"), Path::new("/dev/ttyS0"));
        assert_eq!(terminal_path(""), Path::new("/dev/console"));
    }

    #[test]
    fn a_terminal_is_made_sane() {
        let pty = crate::process::pty::open_pty(0, 0, None).unwrap();
        let mut raw = tcgetattr(&pty.terminal).unwrap();
        nix::sys::termios::cfmakeraw(&mut raw);
        tcsetattr(&pty.terminal, SetArg::TCSANOW, &raw).unwrap();
        let path = nix::unistd::ttyname(&pty.terminal).unwrap();
        let opened = open_terminal(&path).unwrap();
        let sane = tcgetattr(&opened).unwrap();
        assert!(
            sane.local_flags
                .contains(LocalFlags::ICANON | LocalFlags::ECHO)
        );
        assert!(sane.output_flags.contains(OutputFlags::ONLCR));
    }
}
