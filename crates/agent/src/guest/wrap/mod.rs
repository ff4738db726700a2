// SPDX-License-Identifier: Apache-2.0
//! `inn-guest wrap`: runs a program whose TCP sockets to guests are vsock sockets.
//!
//! ```text
//! dynamic ──> LD_PRELOAD=libinn_preload.so ──> exec
//! others  ──> a watcher of its own session <── their system calls (seccomp) ── exec
//! ```
//!
//! Either way this process becomes the program: its exit status, signals and children
//! are its own.

mod callee;
mod calls;
mod filter;
mod launch;
mod program;
mod watcher;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command as Process, ExitCode};

use self::program::Kind;
use super::{Command, libraries, usage_error};

/// The command.
pub const COMMAND: Command = Command {
    name: "wrap",
    summary: "run a program whose TCP connections to guests go over vsock",
    help: HELP,
    run,
};

const HELP: &str = "\
usage: inn-guest wrap [--mode auto|preload|seccomp] [--] PROGRAM [ARGUMENT]...

Runs PROGRAM, unchanged, so that it reaches guests and the host as if they were on a
network, and they it, without one. What it connects to 240.0.0.0/8 or to
fd69:6e6e:6b70::/96 (NAME.inn has such addresses) becomes a vsock stream to that guest.
Where it listens on all addresses, or on this guest's among those, it listens on the
vsock port of the same number. All else, as UDP and loopback, is left alone. The policy
of the topology decides who may connect, as for every stream.

  --mode preload   for programs that use a C library: a library loaded into them
  --mode seccomp   for all others, such as static and Go programs: another process
                   watches their calls; needs Linux 5.14
  --mode auto      the one that fits PROGRAM. Its children are reached by preload only
                   if they use a C library, too

Variables, of which the first two may have any value:

  INET_IS_ARGO               1.0.HIGH.LOW is domain HIGH * 256 + LOW, too, and 1.0.0.0
                             the host
  ARGO_ACCEPT_DOM0_ONLY      only the host may connect to PROGRAM
  ARGO_CLIENT_PORT_ADDEND=N  a connection's own port is the other's plus N

Exit status: that of PROGRAM; 125 if wrap itself fails, 126 if PROGRAM cannot be run,
127 if there is no such program; 2 for wrong usage.

  inn-guest wrap -- sshd -D            # on one guest
  inn-guest wrap -- ssh root@web.inn   # on another
";

const LIBRARY: &str = "libinn_preload.so";
/// Says the library that it is wanted, and everybody how the program is wrapped.
const VARIABLE: &str = "INN_WRAP";

const WRAP_FAILED: u8 = 125;
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Auto,
    Preload,
    Seccomp,
}

fn run(args: &[OsString]) -> ExitCode {
    let (mode, command) = match parse(args) {
        Ok(parsed) => parsed,
        Err(problem) => return usage_error(&COMMAND, problem),
    };
    let Some((name, args)) = command.split_first() else {
        return usage_error(&COMMAND, "which program?");
    };
    let file = match program::find(name) {
        Ok(file) => file,
        Err(error) => return cannot_run(name, &error),
    };
    let kind = match program::kind(&file) {
        Ok(kind) => kind,
        // One that may be run but not read.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Kind::OnItsOwn,
        Err(error) => return cannot_run(name, &error),
    };
    if kind == Kind::Foreign {
        return report(CANNOT_RUN, name, "it is not a 64-bit program of x86");
    }
    let mut process = Process::new(&file);
    process.arg0(name).args(args);
    let prepared = match choose(mode, kind) {
        Mode::Seccomp => watch(&mut process),
        _ => preload(&mut process),
    };
    if let Err(problem) = prepared {
        return report(WRAP_FAILED, name, &problem);
    }
    cannot_run(name, &process.exec())
}

fn parse(args: &[OsString]) -> Result<(Mode, &[OsString]), &'static str> {
    let mut mode = Mode::Auto;
    let mut rest = args;
    loop {
        let Some((first, after)) = rest.split_first() else {
            return Ok((mode, rest));
        };
        let word = first.to_str().unwrap_or_default();
        let value = match word.strip_prefix("--mode") {
            Some("") => {
                let (value, after) = after.split_first().ok_or("--mode: which?")?;
                rest = after;
                value.to_str().unwrap_or_default()
            }
            Some(value) if value.starts_with('=') => {
                rest = after;
                value.trim_start_matches('=')
            }
            _ if word == "--" => return Ok((mode, after)),
            _ if word.starts_with('-') => return Err("no such option"),
            _ => return Ok((mode, rest)),
        };
        mode = match value {
            "auto" => Mode::Auto,
            "preload" => Mode::Preload,
            "seccomp" => Mode::Seccomp,
            _ => return Err("--mode: auto, preload or seccomp"),
        };
    }
}

fn choose(mode: Mode, kind: Kind) -> Mode {
    let has_library = libraries::path(LIBRARY).exists();
    match (mode, kind) {
        (Mode::Auto, Kind::Dynamic) if has_library => Mode::Preload,
        (Mode::Auto, _) => Mode::Seccomp,
        (mode, _) => mode,
    }
}

/// Has the loader load our library, before those that somebody else wants.
fn preload(process: &mut Process) -> Result<(), String> {
    let library = libraries::path(LIBRARY);
    if !library.exists() {
        return Err(format!("there is no {}", library.display()));
    }
    let others = std::env::var_os("LD_PRELOAD").unwrap_or_default();
    process.env("LD_PRELOAD", with_library(&library, &others));
    process.env(VARIABLE, "preload");
    Ok(())
}

/// Has another process answer for the program's system calls.
fn watch(process: &mut Process) -> Result<(), String> {
    process.env(VARIABLE, "seccomp");
    launch::watch_me().map_err(|error| format!("cannot watch it by seccomp: {error}"))
}

fn with_library(library: &Path, others: &OsStr) -> OsString {
    let mut all = library.as_os_str().to_owned();
    if !others.is_empty() && others != library.as_os_str() {
        all.push(":");
        all.push(others);
    }
    all
}

fn cannot_run(name: &OsStr, error: &io::Error) -> ExitCode {
    let code = match error.kind() {
        io::ErrorKind::NotFound => NOT_FOUND,
        _ => CANNOT_RUN,
    };
    report(code, name, &error.to_string())
}

fn report(code: u8, name: &OsStr, problem: &str) -> ExitCode {
    let _ = super::failed(
        &COMMAND,
        format_args!("{}: {problem}", name.to_string_lossy()),
    );
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<(Mode, Vec<String>), &'static str> {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        let (mode, rest) = parse(&args)?;
        let rest = rest.iter().map(|word| word.to_str().unwrap().to_owned());
        Ok((mode, rest.collect()))
    }

    #[test]
    fn options_end_where_the_program_begins() {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        for (args, mode, rest) in [
            (
                &["a", "--mode", "x"][..],
                Mode::Auto,
                &["a", "--mode", "x"][..],
            ),
            (&["--", "--mode"], Mode::Auto, &["--mode"]),
            (&["--mode", "seccomp", "a"], Mode::Seccomp, &["a"]),
            (&["--mode=preload", "--", "a"], Mode::Preload, &["a"]),
            (&[], Mode::Auto, &[]),
        ] {
            assert_eq!(parsed(args), Ok((mode, words(rest))));
        }
        for args in [&["--mode"][..], &["--mode=x", "a"], &["-x", "a"]] {
            assert!(parsed(args).is_err());
        }
    }

    #[test]
    fn the_library_comes_first_and_once() {
        let ours = Path::new("/l.so");
        assert_eq!(with_library(ours, OsStr::new("")), "/l.so");
        assert_eq!(with_library(ours, OsStr::new("/l.so")), "/l.so");
        assert_eq!(with_library(ours, OsStr::new("/x.so")), "/l.so:/x.so");
    }
}
