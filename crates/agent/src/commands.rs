// SPDX-License-Identifier: Apache-2.0
//! The commands of the multi-call binary, chosen by the name it was started by
//! (`init`) or by its first argument.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::agent::{self, Settings};
use crate::transport::Transport;
use crate::{applets, console, guest, init};

const USAGE: &str = "\
usage: inn-agent serve [--set-clock | --unix-dir DIR]
       inn-agent init
       inn-agent sftp-server
       inn-agent unix-connect PATH
       inn-agent vsock-connect CID PORT
       inn-agent vsock-listen PORT
       inn-agent inn-guest COMMAND [ARGUMENT]...
       inn-agent --version

  serve             run beside another init, on vsock ports 8888, 9001 and 9002
  serve --set-clock the same, and the host's clock becomes the guest's
  serve --unix-dir  the same on DIR/8888.sock and so on; the host is DIR/7777.sock
  init              set the guest up and serve, as PID 1 (also when started
                    under the name `init`)
  sftp-server       SFTP on stdin and stdout
  unix-connect      stdin and stdout lead to a Unix socket
  vsock-connect     stdin and stdout lead to a port of another guest
  vsock-listen      stdin and stdout lead to whoever connects to the port first
  inn-guest         what a guest's user can ask for (also when started under the
                    name `inn-guest`)
";

/// Exit status of wrong usage.
const USAGE_ERROR: u8 = 2;

type Command = fn(&[OsString], Duration) -> ExitCode;

/// Every command with its name. One more command is one more line.
const COMMANDS: &[(&str, Command)] = &[
    ("init", run_init),
    ("serve", run_serve),
    ("sftp-server", run_sftp_server),
    ("unix-connect", run_unix_connect),
    ("vsock-connect", run_vsock_connect),
    ("vsock-listen", run_vsock_listen),
    ("inn-guest", run_guest),
    ("--version", print_version),
    ("-V", print_version),
    ("--help", print_usage),
    ("-h", print_usage),
];

/// Runs the command that `args` (with the program's name first) asks for.
/// `started` is when `main` began, since boot.
pub fn run(args: Vec<OsString>, started: Duration) -> ExitCode {
    let (command, rest) = select(&args);
    match command {
        Some(command) => command(rest, started),
        None => usage_error("no such command"),
    }
}

fn select(args: &[OsString]) -> (Option<Command>, &[OsString]) {
    let (name, rest) = args
        .split_first()
        .map_or((None, args), |(name, rest)| (Some(name), rest));
    let name = name.map(PathBuf::from);
    // The kernel appends unknown words of its command line to /init's
    // arguments; as PID 1 they are not ours to judge.
    if let Some(command) = name
        .as_deref()
        .and_then(|path| path.file_name())
        .and_then(find)
    {
        return (Some(command), rest);
    }
    match rest.split_first() {
        Some((first, rest)) => (find(first), rest),
        None => (None, rest),
    }
}

fn find(name: &OsStr) -> Option<Command> {
    COMMANDS
        .iter()
        .find(|(known, _)| name == OsStr::new(known))
        .map(|(_, command)| *command)
}

fn run_init(_: &[OsString], started: Duration) -> ExitCode {
    if !agent::is_pid_1() {
        return usage_error("init needs to be PID 1");
    }
    let (settings, failures) = init::set_up(started);
    agent::run(settings, failures)
}

fn run_serve(args: &[OsString], started: Duration) -> ExitCode {
    let (transport, sets_clock) = match args {
        [] => (Transport::Vsock, false),
        [option] if option == "--set-clock" => (Transport::Vsock, true),
        [option, dir] if option == "--unix-dir" => (Transport::Unix(PathBuf::from(dir)), false),
        _ => return usage_error("serve: wrong arguments"),
    };
    agent::run(
        Settings {
            transport,
            started,
            sets_clock,
            console_shell: false,
            starts_units: false,
        },
        Vec::new(),
    )
}

fn run_sftp_server(_: &[OsString], _: Duration) -> ExitCode {
    applets::sftp_server()
}

fn run_unix_connect(args: &[OsString], _: Duration) -> ExitCode {
    match args {
        [path] => applets::unix_connect(Path::new(path)),
        _ => usage_error("unix-connect: one path"),
    }
}

fn run_vsock_connect(args: &[OsString], _: Duration) -> ExitCode {
    match args {
        [cid, port] => match (number(cid), number(port)) {
            (Some(cid), Some(port)) => applets::vsock_connect(cid, port),
            _ => usage_error("vsock-connect: these are no numbers"),
        },
        _ => usage_error("vsock-connect: a CID and a port"),
    }
}

fn run_vsock_listen(args: &[OsString], _: Duration) -> ExitCode {
    match args {
        [port] => match number(port) {
            Some(port) => applets::vsock_listen(port),
            None => usage_error("vsock-listen: this is no number"),
        },
        _ => usage_error("vsock-listen: one port"),
    }
}

fn run_guest(args: &[OsString], _: Duration) -> ExitCode {
    guest::run(args)
}

fn number(text: &OsStr) -> Option<u32> {
    text.to_str()?.parse().ok()
}

fn print_version(_: &[OsString], _: Duration) -> ExitCode {
    println!("inn-agent {}", env!("CARGO_PKG_VERSION"));
    ExitCode::SUCCESS
}

fn print_usage(_: &[OsString], _: Duration) -> ExitCode {
    print!("{USAGE}");
    ExitCode::SUCCESS
}

fn usage_error(problem: &str) -> ExitCode {
    console::say(problem);
    eprint!("{USAGE}");
    ExitCode::from(USAGE_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(args: &[&str]) -> Option<&'static str> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let command = select(&args).0?;
        COMMANDS
            .iter()
            .find(|(_, known)| std::ptr::fn_addr_eq(*known, command))
            .map(|(name, _)| *name)
    }

    #[test]
    fn name_or_first_argument_chooses() {
        assert_eq!(chosen(&["/init", "whatever"]), Some("init"));
        assert_eq!(chosen(&["inn-agent", "serve"]), Some("serve"));
        assert_eq!(
            chosen(&["/usr/bin/inn-agent", "--version"]),
            Some("--version")
        );
        assert_eq!(
            chosen(&["/proc/self/exe", "sftp-server"]),
            Some("sftp-server")
        );
        assert_eq!(
            chosen(&["/run/innkeeper/bin/inn-guest", "serve"]),
            Some("inn-guest")
        );
        assert_eq!(chosen(&["inn-agent"]), None);
        assert_eq!(chosen(&["inn-agent", "nonsense"]), None);
        assert_eq!(chosen(&[]), None);
    }
}
