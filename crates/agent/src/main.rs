// SPDX-License-Identifier: Apache-2.0
//! innkeeper's guest agent: one static binary, PID 1 of the tiny image or a
//! service beside any other init. It starts shell sessions (vsock port 9001),
//! answers control calls (8888), leads connections to its guest's ports (9002)
//! and announces itself to the host (7777).

mod agent;
mod announce;
mod applets;
mod clock;
mod commands;
mod console;
mod control;
mod disks;
mod failures;
mod forward;
mod guest;
mod guestlog;
mod holders;
mod init;
mod login;
mod names;
mod notify;
mod ports;
mod process;
mod shares;
mod stream;
mod transport;
mod units;
mod vsh;

use std::process::ExitCode;

fn main() -> ExitCode {
    let started = clock::since_boot();
    commands::run(std::env::args_os().collect(), started)
}
