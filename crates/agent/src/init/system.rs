// SPDX-License-Identifier: Apache-2.0
//! The process's and the kernel's settings.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;

use nix::sys::reboot::{RebootMode, reboot, set_cad_enabled};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::Problems;

/// Open files per process; the kernel's own limit (fs.nr_open) is the same.
const OPEN_FILES: u64 = 1 << 20;

const UMASK: Mode = Mode::from_bits_truncate(0o022);

/// Connects descriptors 0 to 2 to the console. The kernel does so too, but
/// with the file the initramfs had, which may be none.
pub fn use_console(problems: &mut Problems) {
    match File::options().read(true).write(true).open("/dev/console") {
        Ok(console) => {
            problems.check("stdin", dup2_stdin(&console));
            problems.check("stdout", dup2_stdout(&console));
            problems.check("stderr", dup2_stderr(&console));
        }
        // A guest without a console is quiet, not broken.
        Err(error) => problems.add("console", error),
    }
}

/// Sets limits and defaults that processes inherit.
pub fn prepare(problems: &mut Problems) {
    umask(UMASK);
    problems.check("chdir", std::env::set_current_dir("/"));
    let result = setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES);
    problems.check("open files", result);
    // Ctrl-Alt-Del becomes a SIGINT to PID 1, and with it an orderly end.
    problems.check("ctrl-alt-del", set_cad_enabled(false));
}

/// Lets every user ask for the guest's CID. That is all the device answers, and udev
/// sets the same mode; this is for guests without it.
pub fn open_vsock_to_all(problems: &mut Problems) {
    match std::fs::set_permissions("/dev/vsock", Permissions::from_mode(0o666)) {
        // A guest without the device.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        result => problems.check("vsock", result),
    }
}

/// Ends a guest that cannot be what was asked for, as a panic does: QEMU ends
/// with the reset, and what was said on the console is the evidence.
pub fn give_up() -> ! {
    let _ = reboot(RebootMode::RB_AUTOBOOT);
    std::process::exit(1);
}
