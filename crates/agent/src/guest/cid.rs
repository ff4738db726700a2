// SPDX-License-Identifier: Apache-2.0
//! `inn-guest cid`: the number under which this guest's streams are known.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::process::ExitCode;

use super::{Command, failed, usage_error};

/// linux/vm_sockets.h; it answers on `/dev/vsock` alone.
const IOCTL_VM_SOCKETS_GET_LOCAL_CID: libc::Ioctl = 0x7b9;

/// The command.
pub const COMMAND: Command = Command {
    name: "cid",
    summary: "print this guest's CID",
    help: "\
usage: inn-guest cid

Prints the CID of this guest, the number under which the other guests of its topology
reach it by AF_VSOCK. The host is CID 2.

Exit status: 0; 1 where the guest has no vsock device.
",
    run,
};

fn run(args: &[OsString]) -> ExitCode {
    if !args.is_empty() {
        return usage_error(&COMMAND, "it takes no argument");
    }
    match own_cid() {
        Ok(cid) => {
            println!("{cid}");
            ExitCode::SUCCESS
        }
        Err(error) => failed(&COMMAND, format_args!("/dev/vsock: {error}")),
    }
}

/// The CID of this guest.
pub fn own_cid() -> io::Result<u32> {
    let device = File::open("/dev/vsock")?;
    let mut cid = 0_u32;
    // SAFETY: the kernel writes four bytes to `cid`, which lives until after the call.
    let done = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            IOCTL_VM_SOCKETS_GET_LOCAL_CID,
            &raw mut cid,
        )
    };
    match done {
        0 => Ok(cid),
        _ => Err(io::Error::last_os_error()),
    }
}
