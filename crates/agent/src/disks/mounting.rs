// SPDX-License-Identifier: Apache-2.0
//! From a block device to a mounted file system.
//!
//! ```text
//! blank ──made──┐
//! clean ────────┼──> mounted
//! not clean ──checked──┘   │ refused
//!                          v
//! lost its superblock ──> repaired ──> mounted, PARTIAL_DATA_LOSS
//!                            │
//!                            └──> refused, with the reason
//! anything else ─────────────────> refused, and left as it is
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};

use super::btrfs;
use super::device::{find_disk, is_read_only};
use super::probe::{Ext4, Found, probe};
use super::report::{Condition, Report};
use super::tools::{self, Ended};
use super::{Disk, FsType};
use crate::console;
use crate::init::modules::load_if_there;

/// e2fsck(8): it could not correct all of it, or failed itself.
const E2FSCK_LEFT_ERRORS: i32 = 4 | 8 | 16 | 32 | 128;

const FLAGS: MsFlags = MsFlags::MS_NOATIME;

/// Mounts disks below `top`, which is or becomes the root. Ends with the first
/// that cannot be: a guest without its data is not what was asked for.
pub fn mount_all(disks: &[Disk], top: &str) -> io::Result<Vec<Report>> {
    let mut disks: Vec<&Disk> = disks.iter().collect();
    // A place within another's comes after it.
    disks.sort_by_key(|disk| disk.path.matches('/').count());
    let mut reports = Vec::new();
    for disk in disks {
        let target = format!("{top}{}", disk.path);
        // Devices come from the guest's kernel, not from a disk that other guests wrote to.
        let report = mount_disk(disk, &target, MsFlags::MS_NODEV)
            .map_err(|error| io::Error::other(format!("{}: {error}", disk.path)))?;
        reports.push(report);
    }
    Ok(reports)
}

/// Finds a disk and mounts it.
///
/// `flags` are beside those that every disk gets.
pub fn mount_disk(disk: &Disk, target: &str, flags: MsFlags) -> io::Result<Report> {
    let device = find_disk(&disk.serial)?;
    make_folder(target)?;
    let (condition, detail) = Mounting {
        device: &device,
        target,
        wanted: disk.fstype,
        read_only: is_read_only(&device),
        flags,
    }
    .run()?;
    if condition != Condition::Good {
        let text = [condition.word(), &detail].join(" ");
        console::say(format_args!("disk {}: {}", disk.path, text.trim_end()));
    }
    Ok(Report {
        serial: disk.serial.clone(),
        condition,
        detail,
        path: disk.path.clone(),
    })
}

struct Mounting<'a> {
    device: &'a Path,
    target: &'a str,
    wanted: FsType,
    read_only: bool,
    flags: MsFlags,
}

type Outcome = (Condition, String);

impl Mounting<'_> {
    fn run(&self) -> io::Result<Outcome> {
        let found = probe(&self.open()?)?;
        load_if_there(found.fstype().unwrap_or(self.wanted).name());
        match found {
            Found::Ext4(state) => self.mount_ext4(state),
            Found::Btrfs => self.mount_btrfs(None),
            Found::Blank if self.read_only => Err(io::Error::other(
                "it is blank, and this guest may only read it",
            )),
            Found::Blank => self.make(),
            Found::Stranger(what) => Err(io::Error::other(format!(
                "there is {what} on it, which is left as it is"
            ))),
            Found::Unknown => self.restore(),
        }
    }

    fn make(&self) -> io::Result<Outcome> {
        let ended = match self.wanted {
            FsType::Ext4 => self.tool("mke2fs", &MKE2FS)?,
            FsType::Btrfs => self.tool("mkfs.btrfs", &["-q"])?,
        };
        if ended.code != 0 {
            return Err(failed("it cannot be formatted", &ended));
        }
        self.mount(self.wanted, None)?;
        Ok((Condition::Made, String::new()))
    }

    fn mount_ext4(&self, state: Ext4) -> io::Result<Outcome> {
        if self.read_only {
            if state.needs_journal {
                return Err(io::Error::other(
                    "it was not unmounted; a guest that may write it has to mend it first",
                ));
            }
            self.mount(FsType::Ext4, None)?;
            return Ok((Condition::Good, String::new()));
        }
        if !state.clean {
            let ended = self.tool("e2fsck", &["-p"])?;
            if ended.code & E2FSCK_LEFT_ERRORS != 0 || ended.code < 0 {
                return self.repair_ext4(&ended.said);
            }
        }
        match self.mount(FsType::Ext4, None) {
            Ok(()) => Ok((Condition::Good, String::new())),
            Err(error) => self.repair_ext4(&error.to_string()),
        }
    }

    /// Lets e2fsck do what it can, with a copy of the superblock where need be.
    fn repair_ext4(&self, why: &str) -> io::Result<Outcome> {
        let ended = self.tool("e2fsck", &["-f", "-y"])?;
        if ended.code < 0 || ended.code & E2FSCK_LEFT_ERRORS != 0 {
            return Err(failed(&format!("{why}; it cannot be repaired"), &ended));
        }
        self.mount(FsType::Ext4, None)?;
        let said = ended.said.replace(" Fix? yes;", "");
        Ok((Condition::PartialDataLoss, format!("e2fsck: {said}")))
    }

    /// Mounts btrfs as it is, else with an older tree, else just to be read.
    fn mount_btrfs(&self, earlier: Option<&str>) -> io::Result<Outcome> {
        let lost = |what: &str| {
            let words: Vec<&str> = earlier.into_iter().chain([what]).collect();
            (Condition::PartialDataLoss, words.join("; "))
        };
        let first = match (self.mount(FsType::Btrfs, None), earlier) {
            (Ok(()), None) => return Ok((Condition::Good, String::new())),
            (Ok(()), Some(_)) => return Ok(lost("all of it can be read")),
            (Err(error), _) => error,
        };
        if self
            .mount(FsType::Btrfs, Some("rescue=usebackuproot"))
            .is_ok()
        {
            return Ok(lost("an older tree is used: what was written last is lost"));
        }
        let flags = FLAGS | self.flags | MsFlags::MS_RDONLY;
        match mount_at(
            self.device,
            self.target,
            FsType::Btrfs,
            flags,
            Some("rescue=all"),
        ) {
            Ok(()) => Ok(lost("read-only: its trees are damaged; copy what is there")),
            Err(_) => Err(io::Error::other(format!("{first}; nor with an older tree"))),
        }
    }

    /// Something is on it, and no superblock at its beginning.
    fn restore(&self) -> io::Result<Outcome> {
        if self.read_only {
            return Err(io::Error::other(
                "its file system has lost its superblock; a guest that may write it can mend it",
            ));
        }
        let unknown = "what is on it has no superblock that is known, and is left as it is";
        match self.wanted {
            FsType::Btrfs if btrfs::restore(&self.open()?)? => {
                self.mount_btrfs(Some("the superblock was damaged; a copy took its place"))
            }
            FsType::Ext4 => self.repair_ext4("the superblock is damaged"),
            FsType::Btrfs => Err(io::Error::other(unknown)),
        }
    }

    fn open(&self) -> io::Result<File> {
        File::options()
            .read(true)
            .write(!self.read_only)
            .open(self.device)
    }

    fn tool(&self, program: &str, arguments: &[&str]) -> io::Result<Ended> {
        tools::run(program, arguments, self.device)
    }

    fn mount(&self, fstype: FsType, options: Option<&str>) -> io::Result<()> {
        let flags = FLAGS | self.flags | read_only_flag(self.read_only);
        let own = match (fstype, self.read_only) {
            (_, true) => None,
            // What is deleted is given back to the host; what was never written
            // is zero there already and need not be zeroed.
            (FsType::Ext4, false) => Some("discard,noinit_itable"),
            (FsType::Btrfs, false) => Some("discard=async"),
        };
        let words: Vec<&str> = own.into_iter().chain(options).collect();
        mount_at(
            self.device,
            self.target,
            fstype,
            flags,
            Some(&words.join(",")),
        )
    }
}

/// No reserved blocks: it is nobody's root. An error makes it read-only, since what
/// comes after one makes it worse.
const MKE2FS: [&str; 11] = [
    "-q",
    "-F",
    "-t",
    "ext4",
    "-m",
    "0",
    "-e",
    "remount-ro",
    "-E",
    "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
    "--",
];

fn mount_at(
    device: &Path,
    target: &str,
    fstype: FsType,
    flags: MsFlags,
    options: Option<&str>,
) -> io::Result<()> {
    mount(Some(device), target, Some(fstype.name()), flags, options).map_err(|errno| {
        let what = fstype.name();
        io::Error::other(format!(
            "the kernel cannot mount its {what}: {}",
            errno.desc()
        ))
    })
}

fn read_only_flag(read_only: bool) -> MsFlags {
    if read_only {
        MsFlags::MS_RDONLY
    } else {
        MsFlags::empty()
    }
}

fn make_folder(path: &str) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot make the folder: {error}")))
}

fn failed(what: &str, ended: &Ended) -> io::Error {
    io::Error::other(format!("{what} (exit code {}): {}", ended.code, ended.said))
}
