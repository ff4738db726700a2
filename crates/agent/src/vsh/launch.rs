// SPDX-License-Identifier: Apache-2.0
//! From a setup request to a running process.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use inn_wire::vsh::{FailedStep, SetupConnectionRequest};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Uid, pipe2};

use crate::process::environment::Environment;
use crate::process::pty::{Pty, open_pty};
use crate::process::reaper::{Child, Reaper};
use crate::process::spawn::{Plan, SpawnError, Step, c_strings, spawn};
use crate::process::users::{Account, Database};

/// A refused setup: what the response says.
#[derive(Debug, thiserror::Error)]
#[error("{description}")]
pub struct Refusal {
    /// For people.
    pub description: String,
    /// For programs.
    pub errno: Errno,
    /// What the errno is about.
    pub step: FailedStep,
}

impl Refusal {
    /// A refusal that is about none of the named steps.
    pub fn other(description: impl std::fmt::Display, errno: Errno) -> Self {
        Self {
            description: description.to_string(),
            errno,
            step: FailedStep::Other,
        }
    }

    fn invalid(problem: impl std::fmt::Display) -> Self {
        Self::other(problem, Errno::EINVAL)
    }

    fn at(self, step: FailedStep) -> Self {
        Self { step, ..self }
    }

    fn system(errno: Errno) -> Self {
        SpawnError {
            step: Step::Fork,
            errno,
        }
        .into()
    }
}

impl From<SpawnError> for Refusal {
    fn from(error: SpawnError) -> Self {
        Self {
            description: error.to_string(),
            errno: error.errno,
            step: named(error.step),
        }
    }
}

fn named(step: Step) -> FailedStep {
    match step {
        Step::Identity => FailedStep::User,
        Step::Cwd => FailedStep::Workdir,
        Step::Exec => FailedStep::Command,
        Step::Fork | Step::Session | Step::Stdio => FailedStep::Other,
    }
}

/// The agent's ends of a session's input and output.
pub enum Ends {
    /// One terminal.
    Terminal(OwnedFd),
    /// Three pipes.
    Pipes {
        /// Where the process reads.
        stdin: OwnedFd,
        /// Where it writes.
        stdout: OwnedFd,
        /// Where it complains.
        stderr: OwnedFd,
    },
}

/// A running session's process.
pub struct Launched {
    /// The process.
    pub child: Child,
    /// Its input and output.
    pub ends: Ends,
    /// Login name of its user.
    pub user: String,
}

/// Starts what the request asks for. Blocks.
pub fn launch(request: SetupConnectionRequest, reaper: &Reaper) -> Result<Launched, Refusal> {
    check_target(&request.target)?;
    let (account, is_switch) = account(&request.user, Path::new("/etc"))?;
    let mut env = Environment::login(&account);
    env.extend(request.env).map_err(Refusal::invalid)?;
    let (command, argv) = command(request.argv, &account);
    let programs = env.candidates(&command);
    let cwd = working_dirs(&request.cwd, request.cwd_pid, &account);
    let owner = is_switch.then_some(account.identity.uid);
    let user = account.name;
    let (stdio, ends) = if request.nopty {
        pipes().map_err(Refusal::system)?
    } else {
        terminal(request.window_rows, request.window_cols, owner).map_err(Refusal::system)?
    };
    let plan = Plan {
        programs: c_strings(programs.iter().map(String::as_str)).map_err(Refusal::invalid)?,
        argv: c_strings(argv).map_err(Refusal::invalid)?,
        env: env.into_strings().map_err(Refusal::invalid)?,
        cwd: c_strings(cwd.iter().map(String::as_str)).map_err(Refusal::invalid)?,
        identity: is_switch.then_some(account.identity),
        stdio,
        terminal: matches!(ends, Ends::Terminal(_)),
    };
    let child = reaper
        .start(|| spawn(plan))
        .map_err(|error| explain(error, &programs, &cwd))?;
    Ok(Launched { child, ends, user })
}

fn check_target(target: &str) -> Result<(), Refusal> {
    match target {
        "" | "/vm_shell" | "vm_shell" => Ok(()),
        other => Err(Refusal::other(
            format_args!("no container \"{other}\" in this guest"),
            Errno::ENOENT,
        )),
    }
}

/// The user to run as, and whether that is another than the agent's own.
fn account(wanted: &str, etc: &Path) -> Result<(Account, bool), Refusal> {
    let database = Database::read(etc);
    let own = Uid::effective().as_raw();
    if wanted.is_empty() {
        return Ok((database.by_uid(own), false));
    }
    let account = database
        .find(wanted)
        .map_err(|error| Refusal::invalid(error).at(FailedStep::User))?;
    // Without privilege, becoming who one is already works by doing nothing.
    let is_switch = own == 0 || account.identity.uid != own;
    Ok((account, is_switch))
}

/// The command to look up, and its argv. A login shell knows that it is one by
/// the dash before its name.
fn command(argv: Vec<String>, account: &Account) -> (String, Vec<String>) {
    match argv.first() {
        Some(first) => (first.clone(), argv),
        None => {
            let shell = account.shell.clone();
            let name = shell.rsplit('/').next().unwrap_or_default();
            let argv = vec![format!("-{name}")];
            (shell, argv)
        }
    }
}

/// The folder asked for; else home, which may be missing.
fn working_dirs(cwd: &str, cwd_pid: i32, account: &Account) -> Vec<String> {
    if !cwd.is_empty() {
        vec![cwd.to_owned()]
    } else if cwd_pid > 0 {
        vec![format!("/proc/{cwd_pid}/cwd")]
    } else {
        vec![account.home.clone(), "/".to_owned()]
    }
}

fn pipes() -> nix::Result<([OwnedFd; 3], Ends)> {
    let (child_stdin, stdin) = pipe2(OFlag::O_CLOEXEC)?;
    let (stdout, child_stdout) = pipe2(OFlag::O_CLOEXEC)?;
    let (stderr, child_stderr) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((
        [child_stdin, child_stdout, child_stderr],
        Ends::Pipes {
            stdin,
            stdout,
            stderr,
        },
    ))
}

fn terminal(rows: i32, cols: i32, owner: Option<u32>) -> nix::Result<([OwnedFd; 3], Ends)> {
    let Pty { master, terminal } = open_pty(rows, cols, owner)?;
    let copy = || {
        terminal
            .try_clone()
            .map_err(|error| error.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw))
    };
    Ok(([copy()?, copy()?, terminal], Ends::Terminal(master)))
}

/// Says what failed by name.
fn explain(error: SpawnError, programs: &[String], cwd: &[String]) -> Refusal {
    let reason = error.errno.desc();
    let description = match error.step {
        Step::Cwd => format!("{}: {reason}", cwd.first().map_or("", String::as_str)),
        Step::Exec => explain_exec(error.errno, programs),
        _ => error.to_string(),
    };
    Refusal::other(description, error.errno).at(named(error.step))
}

fn explain_exec(errno: Errno, programs: &[String]) -> String {
    let last = programs.last().map_or("", String::as_str);
    let name = if programs.len() > 1 {
        last.rsplit('/').next().unwrap_or(last)
    } else {
        last
    };
    if errno != Errno::ENOENT {
        return format!("{name}: {}", errno.desc());
    }
    // The kernel says ENOENT also for the interpreter a file names, which
    // sends people looking for a file that is there.
    match programs
        .iter()
        .find(|program| CString::new(program.as_str()).is_ok() && Path::new(program).is_file())
    {
        Some(found) => format!("{found}: its interpreter or dynamic loader is missing"),
        None if programs.len() > 1 => format!("{name}: not found in PATH"),
        None => format!("{name}: {}", errno.desc()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> Account {
        Database::default().find("1000").unwrap()
    }

    #[test]
    fn empty_argv_is_a_login_shell() {
        assert_eq!(
            command(vec![], &alice()),
            ("/bin/sh".into(), vec!["-sh".into()])
        );
        let argv = vec!["ls".to_owned(), "-l".to_owned()];
        assert_eq!(command(argv.clone(), &alice()), ("ls".into(), argv));
    }

    #[test]
    fn working_directories() {
        assert_eq!(working_dirs("/x", 7, &alice()), ["/x"]);
        assert_eq!(working_dirs("", 7, &alice()), ["/proc/7/cwd"]);
        assert_eq!(working_dirs("", -1, &alice()), ["/", "/"]);
    }

    #[test]
    fn only_the_guest_itself_is_a_target() {
        for target in ["", "/vm_shell", "vm_shell"] {
            assert!(check_target(target).is_ok());
        }
        assert_eq!(check_target("penguin").unwrap_err().errno, Errno::ENOENT);
    }

    #[test]
    fn descriptions_name_the_thing() {
        let path = ["/a/x".to_owned(), "/b/x".to_owned()];
        assert_eq!(explain_exec(Errno::ENOENT, &path), "x: not found in PATH");
        assert_eq!(explain_exec(Errno::EACCES, &path), "x: Permission denied");
        assert!(explain_exec(Errno::ENOENT, &["/etc/passwd".to_owned()]).contains("interpreter"));
    }
}
