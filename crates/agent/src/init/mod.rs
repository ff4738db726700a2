// SPDX-License-Identifier: Apache-2.0
//! What PID 1 does before it serves. Nothing here is fatal: a guest that is
//! set up in part can still say over its shell what is wrong with it.

mod cmdline;
mod foreign;
pub mod modules;
mod mounts;
mod root;
mod scheduler;
mod system;

use std::io;
use std::time::Duration;

use inn_wire::announce::Failure;

use crate::agent::Settings;
use crate::console;
use crate::disks::report::Report;
use crate::disks::{self, Disk};
use crate::failures::describe;
use crate::shares;
use crate::transport::Transport;

/// Sets the guest up; returns how to serve and what went wrong.
pub fn set_up(started: Duration) -> (Settings, Vec<Failure>) {
    let mut problems = Problems::default();
    // Devices first: whatever wants randomness falls back on /dev/urandom.
    mounts::mount_all(&mut problems);
    system::use_console(&mut problems);
    problems.say_all();
    system::prepare(&mut problems);
    let cmdline = cmdline::read();
    if let Some(name) = cmdline.hostname.as_deref() {
        problems.check("hostname", nix::unistd::sethostname(name));
    }
    problems.check("loopback", crate::control::network::bring_loopback_up());
    modules::load_all(&cmdline.modules, &mut problems);
    system::open_vsock_to_all(&mut problems);
    problems.check("libraries", crate::guest::libraries::install());
    mounts::mount_firmware_variables(&mut problems);
    problems.say_all();
    let shares = wanted_shares(&cmdline);
    // The tree is in /run, which goes along to a new root; that may be a share too.
    if let Some(shares) = shares {
        let result = shares::mount_tree(&shares.transport);
        insist("share", result, &mut problems);
    }
    match &cmdline.root {
        Some(root) => enter_root(root, &cmdline.disks, &mut problems),
        None => {
            insist("disk", mount_disks(&cmdline.disks, "", None), &mut problems);
            disks::tools::drop_all();
        }
    }
    if let Some(shares) = shares {
        insist("share", shares::attach(shares), &mut problems);
    }
    if let Some(init) = cmdline.root.as_ref().and_then(|root| root.init.as_deref()) {
        insist("init", Err(root::hand_over(init)), &mut problems);
    }
    scheduler::finish_before_waking();
    problems.say_all();
    let settings = Settings {
        transport: Transport::Vsock,
        started,
        sets_clock: true,
        console_shell: cmdline.console_shell,
        starts_units: !cmdline.units_off,
    };
    (settings, problems.list)
}

/// What is to be mounted of the host's folders. Where they may only come later, no
/// server runs yet, and whatever looks at all file systems, as sync(2), would wait
/// for its answer.
fn wanted_shares(cmdline: &cmdline::Cmdline) -> Option<&shares::Shares> {
    let is_root = |root: &cmdline::Root| matches!(root.source, cmdline::Source::Share(_));
    let has_root = cmdline.root.as_ref().is_some_and(is_root);
    let shares = cmdline.shares.as_ref()?;
    (has_root || !shares.places.is_empty()).then_some(shares)
}

/// Goes on with a root of its own, still with the agent as PID 1.
fn enter_root(root: &cmdline::Root, disks: &[Disk], problems: &mut Problems) {
    let result = root::enter(root, disks, problems);
    insist("root", result, problems);
    if root.init.is_none() {
        mounts::mount_after_root(problems);
    }
}

/// Without its root, a disk or a share, a guest is not what was asked for: it ends, and
/// its last words on the console say why.
fn insist(what: &str, result: io::Result<()>, problems: &mut Problems) {
    if let Err(error) = result {
        problems.add(what, error);
        problems.say_all();
        system::give_up();
    }
}

/// Mounts disks below `top`, and keeps how each was found.
fn mount_disks(wanted: &[Disk], top: &str, layer: Option<Report>) -> io::Result<()> {
    let mut reports = disks::mounting::mount_all(wanted, top)?;
    reports.extend(layer);
    if reports.is_empty() {
        return Ok(());
    }
    disks::report::save(&reports)
}

/// What went wrong so far.
#[derive(Default)]
pub struct Problems {
    list: Vec<Failure>,
    said: usize,
}

impl Problems {
    /// Notes a problem.
    pub fn add(&mut self, what: &str, detail: impl std::fmt::Display) {
        self.list.push(describe(what, detail));
    }

    /// Notes the error of a result.
    pub fn check<T>(&mut self, what: &str, result: Result<T, impl std::fmt::Display>) {
        if let Err(error) = result {
            self.add(what, error);
        }
    }

    /// Says on the console what was not said yet. Before there is a console,
    /// problems only collect.
    fn say_all(&mut self) {
        for problem in self.list.iter().skip(self.said) {
            console::say(format_args!("{}: {}", problem.what, problem.detail));
        }
        self.said = self.list.len();
    }
}
