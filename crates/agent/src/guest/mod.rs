// SPDX-License-Identifier: Apache-2.0
//! `inn-guest`: what a guest's user can ask of innkeeper from inside. It is the agent's
//! binary under another name. One file per command, and one line in [`COMMANDS`].

mod address;
mod arguments;
mod cid;
pub mod hosts;
pub mod libraries;
mod proxy;
mod rings;
mod sockets;
mod throughput;
mod wrap;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::process::ExitCode;

/// Exit status of wrong usage.
pub const USAGE_ERROR: u8 = 2;

/// One command of `inn-guest`.
pub struct Command {
    /// Its first argument.
    pub name: &'static str,
    /// One line for the list of commands.
    pub summary: &'static str,
    /// What `inn-guest NAME --help` prints, with its last newline.
    pub help: &'static str,
    /// Runs it with the arguments after its name.
    pub run: fn(&[OsString]) -> ExitCode,
}

/// Every command, in the order in which they are listed.
const COMMANDS: &[&Command] = &[
    &wrap::COMMAND,
    &cid::COMMAND,
    &proxy::COMMAND,
    &rings::COMMAND,
    &throughput::COMMAND,
];

const USAGE: &str = "\
usage: inn-guest COMMAND [ARGUMENT]...
       inn-guest help [COMMAND]
       inn-guest --version

What this guest can do with the guests of its topology and with its host.

commands:
";

const EPILOGUE: &str = "
`inn-guest COMMAND --help` describes a command. Exit status: 2 for wrong usage; others
are told there.
";

/// Runs the command that `args` (without the program's name) asks for.
pub fn run(args: &[OsString]) -> ExitCode {
    let Some((first, rest)) = args.split_first() else {
        let _ = io::stderr().write_all(overview().as_bytes());
        return ExitCode::from(USAGE_ERROR);
    };
    match first.to_str() {
        Some("--version" | "-V") => {
            return print(&format!("inn-guest {}\n", env!("CARGO_PKG_VERSION")));
        }
        Some("help" | "--help" | "-h") => return help(rest),
        _ => {}
    }
    match find(first) {
        Some(command) if rest.first().is_some_and(|arg| arg == "--help") => print(command.help),
        Some(command) => (command.run)(rest),
        None => unknown(first),
    }
}

/// Reports wrong usage of a command, with its help.
pub fn usage_error(command: &Command, problem: &str) -> ExitCode {
    let line = format!("inn-guest {}: {problem}\n\n{}", command.name, command.help);
    let _ = io::stderr().write_all(line.as_bytes());
    ExitCode::from(USAGE_ERROR)
}

/// Reports what a command could not do.
pub fn failed(command: &Command, problem: impl std::fmt::Display) -> ExitCode {
    let line = format!("inn-guest {}: {problem}\n", command.name);
    let _ = io::stderr().write_all(line.as_bytes());
    ExitCode::FAILURE
}

fn find(name: &OsStr) -> Option<&'static Command> {
    COMMANDS.iter().find(|one| name == one.name).copied()
}

fn help(args: &[OsString]) -> ExitCode {
    match args.first() {
        None => print(&overview()),
        Some(name) => match find(name) {
            Some(command) => print(command.help),
            None => unknown(name),
        },
    }
}

fn unknown(name: &OsStr) -> ExitCode {
    let name = name.to_string_lossy();
    let line = format!("inn-guest: no command {name}\n\n{}", overview());
    let _ = io::stderr().write_all(line.as_bytes());
    ExitCode::from(USAGE_ERROR)
}

fn overview() -> String {
    let lines = COMMANDS
        .iter()
        .map(|command| format!("  {:<12}{}\n", command.name, command.summary));
    format!("{USAGE}{}{EPILOGUE}", lines.collect::<String>())
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_described() {
        for command in COMMANDS {
            let usage = format!("usage: inn-guest {}", command.name);
            assert!(command.help.starts_with(&usage), "{}", command.name);
            assert!(command.help.ends_with('\n'), "{}", command.name);
            assert!(command.help.contains("Exit status"), "{}", command.name);
            assert!(overview().contains(command.summary), "{}", command.name);
            assert!(command.help.lines().all(|line| line.chars().count() <= 88));
        }
    }

    #[test]
    fn names_choose_commands() {
        assert!(find(OsStr::new("cid")).is_some_and(|command| command.name == "cid"));
        assert!(find(OsStr::new("nonsense")).is_none());
    }
}
