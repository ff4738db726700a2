// SPDX-License-Identifier: Apache-2.0
//! From the initramfs to a root file system of its own, and to its init.
//!
//! A root is found by what the host calls it, mounted read-only, put under a
//! writable layer where one is wanted, and becomes `/`. The initramfs is given
//! back. Then either this process goes on as PID 1, or the root's init takes
//! its place and starts the agent as a service.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::statfs;
use nix::unistd::{chroot, execv};

use super::Problems;
use super::cmdline::{Overlay, Root, Source, Tools};
use crate::disks::device::{find_disk, wait_for};
use crate::disks::mounting::mount_disk;
use crate::disks::report::Report;
use crate::disks::{Disk, FsType};

const LOWER: &str = "/sysroot";
const LAYER: &str = "/layer";
const MERGED: &str = "/newroot";
const PLAIN: &str = "/plainroot";

/// What moves along to the new root.
const KEPT_MOUNTS: &[&str] = &["/dev", "/proc", "/sys", "/run"];

/// The agent's place beside another init: /run is memory, and every init keeps it.
const AGENT: &str = "/run/innkeeper/inn-agent";

/// The agent for the guest's users: in PATH of sessions, and of login shells, which
/// set a PATH of their own, where the root lets us.
const GUEST_COMMAND: &str = "/run/innkeeper/bin/inn-guest";
const GUEST_COMMAND_LINK: &str = "/usr/local/bin/inn-guest";

/// `RAMFS_MAGIC` and `TMPFS_MAGIC` (linux/magic.h): what an initramfs lies on.
const MEMORY_FILE_SYSTEMS: &[i64] = &[0x8584_58f6, 0x0102_1994];

/// Makes the root that the command line names the root of this process.
pub fn enter(root: &Root, disks: &[Disk], problems: &mut Problems) -> io::Result<()> {
    for folder in [LOWER, LAYER, MERGED, PLAIN] {
        make_folder(folder)?;
    }
    let own = match own_disk(root) {
        Some(disk) => Some(mount_disk(&disk, LOWER, MsFlags::empty())?),
        None => {
            mount_source(root, LOWER)?;
            None
        }
    };
    let (top, layer) = put_under_layer(root)?;
    if let Some(tools) = &root.tools {
        problems.check("tools", mount_tools(tools, top));
    }
    super::mount_disks(disks, top, own.or(layer))
        .map_err(|error| io::Error::other(format!("disk: {error}")))?;
    for kept in KEPT_MOUNTS {
        let target = format!("{top}{kept}");
        let _ = make_folder(&target);
        mount(Some(*kept), target.as_str(), NONE, MsFlags::MS_MOVE, NONE)
            .map_err(|errno| failed(&format!("move {kept}"), errno))?;
    }
    save_agent(top).map_err(|error| io::Error::other(format!("keep the agent: {error}")))?;
    free_initramfs();
    std::env::set_current_dir(top)?;
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE)
        .map_err(|errno| failed("move the root", errno))?;
    chroot(".").map_err(|errno| failed("chroot", errno))?;
    std::env::set_current_dir("/")
}

/// Lets the root's own init take over, with the agent as its service. Returns
/// only with an error.
pub fn hand_over(init: &str) -> io::Error {
    if let Err(error) = write_service() {
        return error;
    }
    crate::names::begin();
    let Ok(path) = CString::new(init) else {
        return io::Error::from(io::ErrorKind::InvalidInput);
    };
    match execv(&path, std::slice::from_ref(&path)) {
        Ok(never) => match never {},
        Err(errno) => failed(init, errno),
    }
}

const NONE: Option<&str> = None;

/// A root of the guest's own, to which it writes: checked and repaired as a disk is.
fn own_disk(root: &Root) -> Option<Disk> {
    match (&root.source, &root.overlay, root.writable) {
        (Source::Disk(serial), Overlay::None, true) => Some(Disk {
            serial: serial.clone(),
            path: "/".to_owned(),
            fstype: FsType::parse(&root.fstype)?,
        }),
        _ => None,
    }
}

fn mount_source(root: &Root, target: &str) -> io::Result<()> {
    let (source, fstype, options) = match &root.source {
        Source::Disk(serial) => (find_disk(serial)?, root.fstype.as_str(), None),
        Source::Device(path) => (wait_for(Path::new(path))?, root.fstype.as_str(), None),
        Source::Share(name) => return bind_share(name, target),
        Source::Virtiofs(tag) => (PathBuf::from(tag), "virtiofs", None),
        Source::Ninep(tag) => (
            PathBuf::from(tag),
            "9p",
            Some("trans=virtio,version=9p2000.L,msize=512000,cache=loose"),
        ),
    };
    // The host gives the disk read-only; only "none" may find it writable.
    let flags = match root.overlay {
        Overlay::None if root.writable => MsFlags::empty(),
        _ => MsFlags::MS_RDONLY,
    };
    let wanted = root.flags.as_deref().or(options);
    let mut result = mount(Some(&source), target, Some(fstype), flags, wanted);
    if root.flags.is_some() && result.is_err() {
        // A kernel or a file system that does not take them is no worse without.
        result = mount(Some(&source), target, Some(fstype), flags, options);
    }
    result.map_err(|errno| unmounted(&source.display().to_string(), fstype, errno))
}

/// The host serves it read-only, so the mount need not be.
fn bind_share(name: &str, target: &str) -> io::Result<()> {
    let source = format!("{}/{name}", crate::shares::TREE);
    mount(Some(source.as_str()), target, NONE, MsFlags::MS_BIND, NONE)
        .map_err(|errno| failed(&format!("mount the share {name}"), errno))
}

/// Mounts the second file system on the root that is to be.
fn mount_tools(tools: &Tools, top: &str) -> io::Result<()> {
    let target = format!("{top}{}", tools.place);
    // On a read-only root without this folder, the mount says so.
    let _ = make_folder(&target);
    let disk = find_disk(&tools.serial)?;
    let fstype = tools.fstype.as_str();
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV;
    mount(Some(&disk), target.as_str(), Some(fstype), flags, NONE).map_err(|errno| {
        let what = format!("{} at {}", disk.display(), tools.place);
        unmounted(&what, fstype, errno)
    })
}

/// Where the root is in the end: with or without a writable layer.
fn put_under_layer(root: &Root) -> io::Result<(&'static str, Option<Report>)> {
    let layer = match &root.overlay {
        Overlay::None => return Ok((LOWER, None)),
        Overlay::Temp => {
            mount(
                Some("tmpfs"),
                LAYER,
                Some("tmpfs"),
                MsFlags::empty(),
                Some("mode=0755,size=75%"),
            )
            .map_err(|errno| failed("mount the layer", errno))?;
            None
        }
        Overlay::Keep(serial) => Some(mount_layer(serial)?),
    };
    for folder in ["upper", "work"] {
        make_folder(&format!("{LAYER}/{folder}"))?;
    }
    let lower = if root.foreign {
        super::foreign::mount_plain(LOWER, PLAIN)
            .map_err(|error| io::Error::other(format!("mount the lower overlay: {error}")))?;
        PLAIN
    } else {
        LOWER
    };
    let options = format!("lowerdir={lower},upperdir={LAYER}/upper,workdir={LAYER}/work");
    mount(
        Some("overlay"),
        MERGED,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(|errno| unmounted("the layer", "overlay", errno))?;
    Ok((MERGED, layer))
}

fn mount_layer(serial: &str) -> io::Result<Report> {
    let disk = Disk {
        serial: serial.to_owned(),
        // What is free there is what is free on the root.
        path: "/".to_owned(),
        fstype: FsType::Ext4,
    };
    mount_disk(&disk, LAYER, MsFlags::empty())
        .map_err(|error| io::Error::other(format!("the layer: {error}")))
}

/// The initramfs ends, and with it the file this process runs from.
fn save_agent(top: &str) -> io::Result<()> {
    let place = format!("{top}{AGENT}");
    make_folder(&format!("{top}/run/innkeeper"))?;
    // /proc is at its new place already.
    fs::copy(format!("{top}/proc/self/exe"), &place)?;
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
    make_folder(&format!("{top}/run/innkeeper/bin"))?;
    link(AGENT, &format!("{top}{GUEST_COMMAND}"))?;
    // Not on a read-only root, nor where the folder is missing.
    let _ = link(GUEST_COMMAND, &format!("{top}{GUEST_COMMAND_LINK}"));
    Ok(())
}

/// Makes a symbolic link; one that is there already stays.
fn link(target: &str, place: &str) -> io::Result<()> {
    match symlink(target, place) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Gives the memory of the initramfs back. Stays on its own file system, and
/// does nothing where `/` is not in memory.
fn free_initramfs() {
    let root = Path::new("/");
    let in_memory =
        statfs(root).is_ok_and(|info| MEMORY_FILE_SYSTEMS.contains(&info.filesystem_type().0));
    if let (true, Ok(info)) = (in_memory, fs::metadata(root)) {
        remove_below(root, info.dev());
    }
}

fn remove_below(folder: &Path, device: u64) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let Ok(info) = fs::symlink_metadata(&path) else {
            continue;
        };
        if info.dev() != device {
            continue;
        }
        if info.is_dir() {
            remove_below(&path, device);
            // One that is a mount point stays.
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}

/// For systemd. Late and idle, so that a command that runs as soon as the guest
/// is ready finds the boot over (`systemctl is-system-running`).
const UNIT: &str = "\
[Unit]
Description=innkeeper guest agent
DefaultDependencies=no
After=multi-user.target graphical.target systemd-update-utmp-runlevel.service
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=idle
ExecStart=/run/innkeeper/inn-agent serve --set-clock
Restart=always
RestartSec=500ms
OOMScoreAdjust=-900
KillMode=mixed
StandardOutput=journal+console
";

fn write_service() -> io::Result<()> {
    let units = "/run/systemd/system";
    for target in [
        "multi-user.target.wants",
        "emergency.target.wants",
        "rescue.target.wants",
    ] {
        make_folder(&format!("{units}/{target}"))?;
        let place = format!("{units}/{target}/inn-agent.service");
        link("../inn-agent.service", &place)?;
    }
    fs::write(format!("{units}/inn-agent.service"), UNIT)
}

/// Makes a folder and those above it.
pub fn make_folder(path: &str) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
}

/// The error of a mount; the host reads the words about a driver.
fn unmounted(what: &str, fstype: &str, errno: nix::Error) -> io::Error {
    match errno {
        nix::Error::ENODEV => {
            io::Error::other(format!("mount {what}: the kernel has no driver {fstype}"))
        }
        _ => failed(&format!("mount {what} ({fstype})"), errno),
    }
}

fn failed(what: &str, errno: nix::Error) -> io::Error {
    io::Error::other(format!("{what}: {}", errno.desc()))
}
