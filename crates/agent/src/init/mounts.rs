// SPDX-License-Identifier: Apache-2.0
//! The file systems every Linux program expects.

use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::Problems;

struct Mount {
    fstype: &'static str,
    target: &'static str,
    flags: MsFlags,
    options: Option<&'static str>,
}

const SAFE: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const DATA: MsFlags = SAFE.union(MsFlags::MS_NOEXEC);

const fn entry(
    fstype: &'static str,
    target: &'static str,
    flags: MsFlags,
    options: Option<&'static str>,
) -> Mount {
    Mount {
        fstype,
        target,
        flags,
        options,
    }
}

/// In this order. /dev is first, see [`super::set_up`].
const MOUNTS: &[Mount] = &[
    entry("devtmpfs", "/dev", MsFlags::MS_NOSUID, Some("mode=0755")),
    entry("proc", "/proc", DATA, None),
    entry("sysfs", "/sys", DATA, None),
    // Group 5 is tty by convention everywhere. ptmxmode: the default, 000,
    // keeps everybody but root from opening terminals.
    entry(
        "devpts",
        "/dev/pts",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        Some("gid=5,mode=620,ptmxmode=666"),
    ),
    entry("tmpfs", "/dev/shm", SAFE, Some("mode=1777")),
    entry("tmpfs", "/run", SAFE, Some("mode=0755")),
    entry("tmpfs", "/tmp", SAFE, Some("mode=1777")),
    entry("cgroup2", "/sys/fs/cgroup", DATA, None),
];

/// Links that devtmpfs does not make.
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts everything that is not mounted yet.
pub fn mount_all(problems: &mut Problems) {
    for entry in MOUNTS {
        if let Err(errno) = mount_one(entry) {
            problems.add("mount", format_args!("{}: {}", entry.target, errno.desc()));
        }
    }
    for (original, link) in LINKS {
        match symlink(original, link) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                problems.add("link", format_args!("{link}: {error}"));
            }
            _ => {}
        }
    }
}

/// Mounts again what did not move along to a new root.
pub fn mount_after_root(problems: &mut Problems) {
    for entry in MOUNTS.iter().filter(|entry| entry.target == "/tmp") {
        if let Err(errno) = mount_one(entry) {
            problems.add("mount", format_args!("{}: {}", entry.target, errno.desc()));
        }
    }
}

/// Mounts the UEFI variables of a guest that has such firmware.
pub fn mount_firmware_variables(problems: &mut Problems) {
    let entry = entry("efivarfs", "/sys/firmware/efi/efivars", DATA, None);
    // The folder is there once firmware has runtime services.
    if !Path::new(entry.target).is_dir() {
        return;
    }
    match mount_one(&entry) {
        // A kernel without the file system: nobody asked for more.
        Ok(()) | Err(Errno::ENODEV) => {}
        Err(errno) => problems.add("mount", format_args!("{}: {}", entry.target, errno.desc())),
    }
}

fn mount_one(entry: &Mount) -> nix::Result<()> {
    // A read-only root has the folders, or the mount says what is missing.
    let _ = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(entry.target);
    let result = mount(
        Some(entry.fstype),
        entry.target,
        Some(entry.fstype),
        entry.flags,
        entry.options,
    );
    match result {
        // The kernel mounts devtmpfs on a real root by itself
        // (CONFIG_DEVTMPFS_MOUNT), an initramfs before us perhaps the others.
        Err(Errno::EBUSY) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_come_first_and_parents_before_children() {
        assert_eq!(MOUNTS[0].fstype, "devtmpfs");
        for (index, entry) in MOUNTS.iter().enumerate() {
            let later = &MOUNTS[index..];
            let hides = |other: &&Mount| entry.target.starts_with(&format!("{}/", other.target));
            assert!(!later.iter().any(|other| hides(&other)), "{}", entry.target);
        }
    }
}
