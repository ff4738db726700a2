// SPDX-License-Identifier: Apache-2.0
//! Clone and exec, with the failing step and its errno reported to the parent.
//!
//! Not `std::process::Command`: that falls back to `/bin/sh` on ENOEXEC, cannot
//! say which step failed, and waits for its failed children itself. Between
//! clone and exec only async-signal-safe calls on memory prepared before
//! happen, because another thread may hold the allocator's lock meanwhile.

use std::convert::Infallible;
use std::ffi::{CStr, CString, NulError, c_char};
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::{Pid, chdir, setsid};

use super::reaper;
use super::users::Identity;

/// Everything a new process needs, with nothing left to allocate.
#[derive(Debug)]
pub struct Plan {
    /// Paths to try, in this order.
    pub programs: Vec<CString>,
    /// Arguments, the program's name first.
    pub argv: Vec<CString>,
    /// `KEY=VALUE` each.
    pub env: Vec<CString>,
    /// Folders to try as working directory, in this order. The failure of the
    /// last one fails the start.
    pub cwd: Vec<CString>,
    /// Whom to become; `None` stays who the agent is.
    pub identity: Option<Identity>,
    /// Descriptors 0, 1 and 2.
    pub stdio: [OwnedFd; 3],
    /// Make descriptor 0 the controlling terminal.
    pub terminal: bool,
}

/// The step of a start that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Pipes and fork, in the agent.
    Fork,
    /// New session and controlling terminal.
    Session,
    /// Descriptors 0 to 2.
    Stdio,
    /// Groups, group, user.
    Identity,
    /// Working directory.
    Cwd,
    /// Every path was tried.
    Exec,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Fork => "starting a process",
            Self::Session => "making a session",
            Self::Stdio => "connecting input and output",
            Self::Identity => "becoming the user",
            Self::Cwd => "entering the working directory",
            Self::Exec => "executing the program",
        })
    }
}

/// Why a process did not start.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{step}: {}", errno.desc())]
pub struct SpawnError {
    /// What failed.
    pub step: Step,
    /// And why.
    pub errno: Errno,
}

/// Converts texts for exec.
pub fn c_strings<I>(texts: I) -> Result<Vec<CString>, NulError>
where
    I: IntoIterator,
    I::Item: Into<Vec<u8>>,
{
    texts.into_iter().map(CString::new).collect()
}

/// Bytes of stack for the child until it executes its program.
const STACK: usize = 64 << 10;

/// What parent and child share. They share all memory, but not at the same
/// time: the parent's thread sleeps until the child's exec or exit.
struct Job<'a> {
    plan: &'a Plan,
    argv: &'a [*const c_char],
    env: &'a [*const c_char],
    error: Option<SpawnError>,
}

/// Starts the process and returns once it executes its program. Blocks: a
/// program on a network share may take its time. Must run inside
/// [`reaper::Reaper::start`].
///
/// As `posix_spawn` does it: the child borrows the agent's memory instead of
/// copying its page tables, which under emulation costs as much as everything
/// else in the start of a small program.
pub fn spawn(plan: Plan) -> Result<Pid, SpawnError> {
    let in_agent = |errno| SpawnError {
        step: Step::Fork,
        errno,
    };
    let (argv, env) = (pointers(&plan.argv), pointers(&plan.env));
    let mut job = Job {
        plan: &plan,
        argv: &argv,
        env: &env,
        error: None,
    };
    let mut previous = SigSet::empty();
    // Until the child has reset its handlers, a signal to it would run ours,
    // which write to the agent's own wake-up pipe: the agent would take a
    // SIGTERM to its child for its own.
    pthread_sigmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut previous),
    )
    .map_err(in_agent)?;
    let cloned = clone_child(&mut job);
    let restored = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&previous), None);
    let pid = cloned.map_err(in_agent)?;
    match job.error {
        Some(error) => {
            reaper::discard(pid);
            Err(error)
        }
        // A mask that could not be restored would only make this one thread
        // deaf, and cannot happen with a valid argument.
        None => restored.map(|()| pid).map_err(in_agent),
    }
}

fn clone_child(job: &mut Job) -> nix::Result<Pid> {
    // Not initialized: 64 KiB of zeros would be pages that nobody touches.
    let mut stack = Box::<[u128]>::new_uninit_slice(STACK / size_of::<u128>());
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack grows down from its end, which a u128 aligns to 16
    // bytes. CLONE_VFORK keeps this thread, and with it `job` and the stack,
    // where they are until the child has left both by exec or exit. The child
    // shares our memory, so `run_child` does only what is safe in a signal
    // handler: it allocates nothing, takes no lock, and changes no memory but
    // its stack, errno of this sleeping thread, and `job.error`. Handlers,
    // descriptors and the working directory are its own copies.
    let result = unsafe {
        let top = stack.as_mut_ptr().add(stack.len());
        libc::clone(run_child, top.cast(), flags, (&raw mut *job).cast())
    };
    Errno::result(result).map(Pid::from_raw)
}

/// The child's side. Async-signal-safe calls only.
extern "C" fn run_child(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `clone_child` passes its `Job`, which nobody else uses meanwhile.
    let job = unsafe { &mut *argument.cast::<Job>() };
    let error = match become_program(job.plan, job.argv, job.env) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    job.error = Some(error);
    // SAFETY: _exit is async-signal-safe and runs none of the agent's exit
    // handlers.
    unsafe { libc::_exit(127) }
}

/// A null-terminated array of pointers, as exec takes it.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|text| text.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

fn become_program(
    plan: &Plan,
    argv: &[*const c_char],
    env: &[*const c_char],
) -> Result<Infallible, SpawnError> {
    let at = |step| move |errno| SpawnError { step, errno };
    reset_signals();
    setsid().map_err(at(Step::Session))?;
    connect_stdio(plan).map_err(at(Step::Stdio))?;
    if plan.terminal {
        // SAFETY: TIOCSCTTY takes an int by value.
        let result = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
        Errno::result(result).map_err(at(Step::Session))?;
    }
    if let Some(identity) = &plan.identity {
        assume(identity).map_err(at(Step::Identity))?;
    }
    let mut entered = Ok(());
    for folder in &plan.cwd {
        entered = chdir(folder.as_c_str());
        if entered.is_ok() {
            break;
        }
    }
    entered.map_err(at(Step::Cwd))?;
    // Whatever else is open, even what a library opened without O_CLOEXEC,
    // closes at exec. ENOSYS before Linux 5.11: then O_CLOEXEC has to do.
    // SAFETY: the call takes three integers.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
    }
    Err(SpawnError {
        step: Step::Exec,
        errno: try_programs(&plan.programs, argv, env),
    })
}

/// Default handlers and an empty mask, as a fresh login has them.
fn reset_signals() {
    // The kernel's struct sigaction, which is no larger: SIG_DFL, no flags.
    let default = [0u64; 4];
    for number in 1..=64 {
        // Not libc's function: that keeps its own signals, 32 and 33, which
        // whoever started the agent may have ignored.
        // SAFETY: the kernel reads one struct from `default`, with a mask of
        // eight bytes; numbers that cannot be changed fail without effect.
        unsafe {
            let none = std::ptr::null_mut::<u64>();
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                none,
                8usize,
            );
        }
    }
    // An empty mask is a valid argument, so this cannot fail.
    let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

fn connect_stdio(plan: &Plan) -> nix::Result<()> {
    for (target, fd) in (0..).zip(&plan.stdio) {
        // The agent always has 0 to 2 open, so no source is a target.
        // SAFETY: dup2 takes two integers; the copy has no O_CLOEXEC.
        Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), target) })?;
    }
    Ok(())
}

/// Raw system calls: glibc's wrappers would tell every thread, and a forked
/// child has but one.
fn assume(identity: &Identity) -> nix::Result<()> {
    let groups = &identity.groups;
    // SAFETY: the pointer and the length are those of one slice; the other
    // calls take integers.
    unsafe {
        Errno::result(libc::syscall(
            libc::SYS_setgroups,
            groups.len(),
            groups.as_ptr(),
        ))?;
        let (uid, gid) = (identity.uid, identity.gid);
        Errno::result(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        Errno::result(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Tries each path as execvp does; returns the errno that says most.
fn try_programs(programs: &[CString], argv: &[*const c_char], env: &[*const c_char]) -> Errno {
    let mut verdict = Errno::ENOENT;
    for program in programs {
        match try_program(program, argv, env) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            // Perhaps a later folder has one we may execute.
            Errno::EACCES => verdict = Errno::EACCES,
            errno => return errno,
        }
    }
    verdict
}

fn try_program(program: &CStr, argv: &[*const c_char], env: &[*const c_char]) -> Errno {
    // SAFETY: both arrays end in a null pointer, and point to strings that
    // live in the plan.
    unsafe {
        libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr());
    }
    Errno::last()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn plan(programs: &[&str]) -> Plan {
        let null = || {
            File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .unwrap()
                .into()
        };
        Plan {
            programs: c_strings(programs.iter().copied()).unwrap(),
            argv: c_strings(["x"]).unwrap(),
            env: Vec::new(),
            cwd: c_strings(["/"]).unwrap(),
            identity: None,
            stdio: [null(), null(), null()],
            terminal: false,
        }
    }

    fn failure(plan: Plan) -> (Step, Errno) {
        let error = spawn(plan).unwrap_err();
        (error.step, error.errno)
    }

    #[test]
    fn exec_errors_are_told_apart() {
        assert_eq!(failure(plan(&["/no/such"])), (Step::Exec, Errno::ENOENT));
        assert_eq!(failure(plan(&[])), (Step::Exec, Errno::ENOENT));
        assert_eq!(
            failure(plan(&["/etc/passwd", "/no/such"])),
            (Step::Exec, Errno::EACCES)
        );
        assert_eq!(
            failure(plan(&["/etc/passwd/x"])),
            (Step::Exec, Errno::ENOENT)
        );
        assert_eq!(failure(plan(&["/tmp"])), (Step::Exec, Errno::EACCES));
    }

    #[test]
    fn the_failing_step_is_named() {
        let mut wrong = plan(&["/bin/true"]);
        wrong.cwd = c_strings(["/no/such"]).unwrap();
        assert_eq!(failure(wrong), (Step::Cwd, Errno::ENOENT));
        let mut wrong = plan(&["/bin/true"]);
        wrong.terminal = true;
        assert_eq!(failure(wrong), (Step::Session, Errno::ENOTTY));
    }

    #[test]
    fn second_choices_count() {
        let mut plan = plan(&["/no/such/true", "/bin/true"]);
        plan.cwd = c_strings(["/no/such", "/"]).unwrap();
        let pid = spawn(plan).unwrap();
        reaper::discard(pid);
    }

    #[test]
    fn nul_in_text_is_an_error() {
        assert!(c_strings(["a\0b"]).is_err());
    }
}
