// SPDX-License-Identifier: Apache-2.0
//! Shutdown: the orderly end of the guest.

use std::sync::Arc;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep, timeout};

use crate::agent::Agent;
use crate::process::environment::{DEFAULT_PATH, Environment};
use crate::process::spawn::{Plan, c_strings, spawn};
use crate::process::users::Database;
use crate::{console, disks};

/// How long answers on their way may take.
const ANSWERS: Duration = Duration::from_millis(500);
/// Between SIGTERM and SIGKILL.
const TERM_GRACE: Duration = Duration::from_secs(2);
/// After SIGKILL: only what hangs in the kernel is left.
const KILL_GRACE: Duration = Duration::from_millis(500);
/// How often the process table is looked at.
const POLL: Duration = Duration::from_millis(20);
/// For sync and umount: a dead share must not keep the guest from ending.
const SYNC_LIMIT: Duration = Duration::from_secs(5);

/// `PF_KTHREAD` in the flags of /proc/PID/stat.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// File systems with nothing to write back.
const VIRTUAL: &[&str] = &[
    "bpf",
    "cgroup2",
    "debugfs",
    "devpts",
    "devtmpfs",
    "mqueue",
    "proc",
    "ramfs",
    "rootfs",
    "securityfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

/// Ends the guest. Returns only when that failed, or is another init's work.
pub async fn run(agent: &Arc<Agent>) {
    agent.stop();
    let _ = timeout(ANSWERS, agent.conversations_over()).await;
    if agent.is_init {
        power_off(agent).await;
    } else {
        ask_init(agent).await;
    }
}

async fn power_off(agent: &Agent) {
    console::say("shutting down");
    // kill(-1) spares PID 1. A stopped process acts on signals once continued.
    signal_everybody(Signal::SIGTERM);
    signal_everybody(Signal::SIGCONT);
    if !everybody_gone(TERM_GRACE).await {
        signal_everybody(Signal::SIGKILL);
        everybody_gone(KILL_GRACE).await;
    }
    // Their users learn how the processes ended, in place of a reset.
    let _ = timeout(ANSWERS, agent.sessions_over()).await;
    // However long it takes: the host has a limit for all of the end.
    let _ = tokio::task::spawn_blocking(disks::flush).await;
    if timeout(SYNC_LIMIT, tokio::task::spawn_blocking(release_disks))
        .await
        .is_err()
    {
        console::say("a file system does not answer; powering off without it");
    }
    let Err(errno) = reboot(RebootMode::RB_POWER_OFF);
    console::say(format_args!("power off: {}", errno.desc()));
}

fn signal_everybody(signal: Signal) {
    // Nobody left is no failure.
    let _ = kill(Pid::from_raw(-1), signal);
}

/// Waits until PID 1 is alone with the kernel's threads; false if it is not.
async fn everybody_gone(limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        if count_processes() == 0 {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        // The reaper runs meanwhile.
        sleep(POLL).await;
    }
}

fn count_processes() -> usize {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return 0;
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != 1)
        .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok())
        .filter(|stat| is_running_program(stat))
        .count()
}

/// Whether a line of /proc/PID/stat is of a program, and not a zombie.
fn is_running_program(stat: &str) -> bool {
    // The name, in parentheses, may hold anything, also more parentheses.
    let Some((_, fields)) = stat.rsplit_once(')') else {
        return false;
    };
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next().unwrap_or("Z");
    let flags = fields
        .nth(5)
        .and_then(|flags| flags.parse::<u64>().ok())
        .unwrap_or(0);
    state != "Z" && state != "X" && flags & KERNEL_THREAD == 0
}

fn release_disks() {
    nix::unistd::sync();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    // The last mount may lie on an earlier one.
    for (target, fstype) in mounts.lines().rev().filter_map(parse_mount) {
        if VIRTUAL.contains(&fstype) {
            continue;
        }
        if nix::mount::umount2(target.as_str(), MntFlags::empty()).is_err() {
            // In use, as the root always is: at least nothing is dirty then.
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            let none = None::<&str>;
            let _ = nix::mount::mount(none, target.as_str(), none, flags, none);
        }
    }
    nix::unistd::sync();
}

/// Mount point and type of a line of /proc/mounts.
fn parse_mount(line: &str) -> Option<(String, &str)> {
    let mut fields = line.split(' ');
    let target = fields.nth(1)?;
    let fstype = fields.next()?;
    // The characters the kernel escapes there.
    let target = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(target.to_owned(), |text, (code, character)| {
        text.replace(code, character)
    });
    Some((target, fstype))
}

/// As a service: the guest's own init knows how to end its services.
async fn ask_init(agent: &Agent) {
    let reaper = agent.reaper.clone();
    let started = tokio::task::spawn_blocking(move || {
        let plan = poweroff_plan().ok_or_else(|| "cannot prepare poweroff".to_owned())?;
        reaper
            .start(|| spawn(plan))
            .map_err(|error| error.to_string())
    });
    let problem = match started.await {
        Ok(Ok(mut child)) => match child.exited().await.shell_code() {
            0 => return,
            code => format!("poweroff ended with {code}"),
        },
        Ok(Err(problem)) => problem,
        Err(error) => error.to_string(),
    };
    agent.failures.report("shutdown", problem);
    agent.resume();
}

fn poweroff_plan() -> Option<Plan> {
    let mut env = Environment::login(&Database::default().by_uid(0));
    let path = std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.to_owned());
    env.extend([("PATH".to_owned(), path)].into()).ok()?;
    let null = || {
        std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
    };
    Some(Plan {
        programs: c_strings(env.candidates("poweroff")).ok()?,
        argv: c_strings(["poweroff"]).ok()?,
        env: env.into_strings().ok()?,
        cwd: vec![c"/".to_owned()],
        identity: None,
        stdio: [
            null().ok()?.into(),
            null().ok()?.into(),
            null().ok()?.into(),
        ],
        terminal: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let line = |name: &str, state: &str, flags: u32| {
            format!("12 ({name}) {state} 1 12 12 0 -1 {flags} 0 0 0\n")
        };
        assert!(is_running_program(&line("sh", "S", 0x0040_0000)));
        assert!(is_running_program(&line("a) Z 1 (", "R", 0)));
        assert!(!is_running_program(&line("sh", "Z", 0)));
        assert!(!is_running_program(&line("kthreadd", "S", 0x0020_8040)));
        assert!(!is_running_program("nonsense"));
    }

    #[test]
    fn mount_lines() {
        let parsed = parse_mount("/dev/vda /mnt/a\\040b\\134c ext4 rw 0 0");
        assert_eq!(parsed, Some(("/mnt/a b\\c".to_owned(), "ext4")));
        assert_eq!(parse_mount("x"), None);
    }
}
