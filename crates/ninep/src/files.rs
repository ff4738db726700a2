// SPDX-License-Identifier: Apache-2.0
//! The files behind a client's names: every call works on a descriptor and at
//! most one name in it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat, renameat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, mkdirat, utimensat,
};
use nix::sys::statfs::{Statfs, fstatfs};
use nix::sys::time::TimeSpec;
use nix::unistd::{
    Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, linkat, setfsgid, setfsuid, symlinkat, unlinkat,
};

use crate::request::Change;

/// What a file is held by: it can be neither read nor written.
const HANDLE: OFlag = OFlag::O_PATH
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// What a client may ask for when it opens a file; the numbers of 9P2000.L are
/// Linux's own.
const OPEN_FLAGS: OFlag = OFlag::O_ACCMODE
    .union(OFlag::O_TRUNC)
    .union(OFlag::O_APPEND)
    .union(OFlag::O_DSYNC)
    .union(OFlag::O_SYNC);

/// Bits of [`Change::valid`].
const SET_MODE: u32 = 1;
const SET_UID: u32 = 2;
const SET_GID: u32 = 4;
const SET_SIZE: u32 = 8;
const SET_ACCESSED: u32 = 0x10;
const SET_MODIFIED: u32 = 0x20;
const ACCESSED_GIVEN: u32 = 0x80;
const MODIFIED_GIVEN: u32 = 0x100;

/// "nobody said which": a uid or gid in a request.
const NO_ID: u32 = u32::MAX;

/// One entry of a folder, as the folder says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Inode number.
    pub inode: u64,
    /// `DT_*`
    pub kind: u8,
    /// Its name.
    pub name: Vec<u8>,
}

/// A tree, and the way from a handle to its file.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    descriptors: OwnedFd,
    gives_away: bool,
}

impl Tree {
    /// The tree below `root`. Nothing is asked of /proc later, so the process
    /// may lock itself up after this.
    ///
    /// `gives_away`: what a user of the guest makes becomes that user's; only a
    /// server that is root can do that.
    pub fn new(root: &Path, gives_away: bool) -> nix::Result<Self> {
        Ok(Self {
            root: open(root, HANDLE | OFlag::O_DIRECTORY, Mode::empty())?,
            descriptors: open("/proc/self/fd", HANDLE | OFlag::O_DIRECTORY, Mode::empty())?,
            gives_away,
        })
    }

    /// The same tree from `/`, after chroot.
    pub fn rooted(self) -> nix::Result<Self> {
        Ok(Self {
            root: open("/", HANDLE | OFlag::O_DIRECTORY, Mode::empty())?,
            ..self
        })
    }

    /// A handle of the root.
    pub fn root(&self) -> nix::Result<OwnedFd> {
        copy(&self.root)
    }

    fn name_of(handle: &OwnedFd) -> String {
        handle.as_raw_fd().to_string()
    }

    /// Opens what a handle stands for, if it is a plain file: a device or a
    /// pipe of the host is not for a guest.
    pub fn open(&self, handle: &OwnedFd, flags: u32) -> nix::Result<File> {
        if !is_kind(&stat(handle)?, SFlag::S_IFREG) {
            return Err(Errno::ENXIO);
        }
        let name = Self::name_of(handle);
        let flags = wanted(flags);
        openat(&self.descriptors, name.as_str(), flags, Mode::empty()).map(File::from)
    }

    /// Makes a file, or opens it where somebody was quicker.
    pub fn create(
        &self,
        folder: &OwnedFd,
        name: &[u8],
        flags: u32,
        mode: u32,
        owner: (u32, u32),
    ) -> nix::Result<File> {
        let own = OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let exclusive = OFlag::from_bits_truncate(flags as i32) & OFlag::O_EXCL;
        let flags = wanted(flags) | own | exclusive;
        let made = self.made_by(owner, || openat(folder, name, flags, permissions(mode)));
        let file = File::from(made?);
        if !is_kind(&nix::sys::stat::fstat(&file)?, SFlag::S_IFREG) {
            return Err(Errno::ENXIO);
        }
        Ok(file)
    }

    /// Makes a folder; a handle of it.
    pub fn make_folder(
        &self,
        folder: &OwnedFd,
        name: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> nix::Result<OwnedFd> {
        self.made_by(owner, || mkdirat(folder, name, permissions(mode)))?;
        find(folder, name)
    }

    /// Makes a symbolic link; a handle of it. What it says is for the client.
    pub fn make_link(
        &self,
        folder: &OwnedFd,
        name: &[u8],
        target: &[u8],
        owner: (u32, u32),
    ) -> nix::Result<OwnedFd> {
        self.made_by(owner, || symlinkat(target, folder, name))?;
        find(folder, name)
    }

    /// Gives a file another name.
    pub fn link(&self, handle: &OwnedFd, folder: &OwnedFd, name: &[u8]) -> nix::Result<()> {
        let source = Self::name_of(handle);
        let flags = LinkatFlags::AT_SYMLINK_FOLLOW;
        linkat(&self.descriptors, source.as_str(), folder, name, flags)
    }

    /// Does something as a user of the client, whose then is what it makes; the
    /// rights to do it are the server's. Where a mount has a map of users, that
    /// is the only way: in it may be the user, and not the server.
    fn made_by<T>(
        &self,
        (uid, gid): (u32, u32),
        make: impl FnOnce() -> nix::Result<T>,
    ) -> nix::Result<T> {
        if !self.gives_away {
            return make();
        }
        let own = (
            setfsuid(Uid::from_raw(NO_ID)),
            setfsgid(Gid::from_raw(NO_ID)),
        );
        let be = |id: u32, own: u32| if id == NO_ID { own } else { id };
        let (uid, gid) = (be(uid, own.0.as_raw()), be(gid, own.1.as_raw()));
        setfsgid(Gid::from_raw(gid));
        setfsuid(Uid::from_raw(uid));
        // Neither says whether it was done, but who was it before.
        let is = (
            setfsuid(Uid::from_raw(NO_ID)),
            setfsgid(Gid::from_raw(NO_ID)),
        );
        let made = if is == (Uid::from_raw(uid), Gid::from_raw(gid)) {
            make()
        } else {
            Err(Errno::EOVERFLOW)
        };
        setfsuid(own.0);
        setfsgid(own.1);
        made
    }

    /// Changes attributes.
    pub fn change(
        &self,
        handle: &OwnedFd,
        opened: Option<&File>,
        change: &Change,
    ) -> nix::Result<()> {
        let has = |bits| change.valid & bits != 0;
        let name = Self::name_of(handle);
        if has(SET_MODE) {
            let mode = permissions(change.mode);
            let follow = FchmodatFlags::FollowSymlink;
            fchmodat(&self.descriptors, name.as_str(), mode, follow)?;
        }
        if has(SET_UID | SET_GID) {
            let given = |bit, id| if has(bit) { id } else { NO_ID };
            let (uid, gid) = (given(SET_UID, change.uid), given(SET_GID, change.gid));
            change_owner(handle, "", uid, gid)?;
        }
        if has(SET_SIZE) {
            match opened {
                Some(file) => file.set_len(change.size),
                None => self
                    .open(handle, OFlag::O_WRONLY.bits() as u32)?
                    .set_len(change.size),
            }
            .map_err(|error| errno(&error))?;
        }
        if has(SET_ACCESSED | SET_MODIFIED) && !is_touch(handle, change)? {
            let accessed = time(has(SET_ACCESSED), has(ACCESSED_GIVEN), change.accessed)?;
            let modified = time(has(SET_MODIFIED), has(MODIFIED_GIVEN), change.modified)?;
            let follow = UtimensatFlags::FollowSymlink;
            utimensat(
                &self.descriptors,
                name.as_str(),
                &accessed,
                &modified,
                follow,
            )?;
        }
        Ok(())
    }
}

/// Whether a change only says what is so: the guest's agent wakes watchers by
/// it, and may do that on a share that is read-only.
fn is_touch(handle: &OwnedFd, change: &Change) -> nix::Result<bool> {
    let given = SET_MODIFIED | MODIFIED_GIVEN;
    let times = SET_ACCESSED | ACCESSED_GIVEN;
    let stat = stat(handle)?;
    // Linux's client knows whole seconds only.
    let is = |(seconds, nanos): (u64, u64), own: i64, own_nanos: i64| {
        seconds as i64 == own && (nanos == 0 || nanos as i64 == own_nanos)
    };
    let modified = is(change.modified, stat.st_mtime, stat.st_mtime_nsec);
    let accessed = is(change.accessed, stat.st_atime, stat.st_atime_nsec);
    // The client adds a change time (0x40), which cannot be set.
    Ok(match change.valid & !0x40 {
        valid if valid == given => modified,
        valid if valid == given | times => modified && accessed,
        _ => false,
    })
}

/// A second handle of the same file.
pub fn copy(handle: &OwnedFd) -> nix::Result<OwnedFd> {
    handle.try_clone().map_err(|error| errno(&error))
}

/// A handle of an entry, whatever it is.
pub fn find(folder: &OwnedFd, name: &[u8]) -> nix::Result<OwnedFd> {
    openat(folder, name, HANDLE, Mode::empty())
}

/// What a handle stands for.
pub fn stat(handle: &OwnedFd) -> nix::Result<FileStat> {
    fstatat(handle, "", AtFlags::AT_EMPTY_PATH)
}

/// The file system of a handle.
pub fn file_system(handle: &OwnedFd) -> nix::Result<Statfs> {
    fstatfs(handle)
}

/// Where a symbolic link leads.
pub fn read_link(handle: &OwnedFd) -> nix::Result<Vec<u8>> {
    let target = readlinkat(handle, "")?;
    Ok(std::os::unix::ffi::OsStringExt::into_vec(target))
}

/// All entries of a folder, as long as their names take at most this many bytes.
pub fn list(handle: &OwnedFd, limit: usize) -> nix::Result<Vec<Entry>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut folder = Dir::openat(handle, ".", flags, Mode::empty())?;
    let mut entries = Vec::new();
    let mut size = 0;
    for entry in folder.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        size += weight(name);
        if size > limit {
            return Err(Errno::ENOMEM);
        }
        entries.push(Entry {
            inode: entry.ino(),
            kind: kind_of(&entry),
            name: name.to_vec(),
        });
    }
    Ok(entries)
}

/// What an entry with this name costs in memory, about.
pub fn weight(name: &[u8]) -> usize {
    name.len() + size_of::<Entry>() + 16
}

fn kind_of(entry: &nix::dir::Entry) -> u8 {
    use nix::dir::Type;
    match entry.file_type() {
        None => libc::DT_UNKNOWN,
        Some(Type::Fifo) => libc::DT_FIFO,
        Some(Type::CharacterDevice) => libc::DT_CHR,
        Some(Type::Directory) => libc::DT_DIR,
        Some(Type::BlockDevice) => libc::DT_BLK,
        Some(Type::File) => libc::DT_REG,
        Some(Type::Symlink) => libc::DT_LNK,
        Some(Type::Socket) => libc::DT_SOCK,
    }
}

/// Removes an entry; with `AT_REMOVEDIR`, a folder.
pub fn remove(folder: &OwnedFd, name: &[u8], flags: u32) -> nix::Result<()> {
    let is_folder = flags as i32 & libc::AT_REMOVEDIR != 0;
    let flags = if is_folder {
        UnlinkatFlags::RemoveDir
    } else {
        UnlinkatFlags::NoRemoveDir
    };
    unlinkat(folder, name, flags)
}

/// Moves an entry.
pub fn rename(from: &OwnedFd, name: &[u8], to: &OwnedFd, new_name: &[u8]) -> nix::Result<()> {
    renameat(from, name, to, new_name)
}

/// Whether this is a folder.
pub fn is_folder(stat: &FileStat) -> bool {
    is_kind(stat, SFlag::S_IFDIR)
}

/// Whether this is a symbolic link.
pub fn is_link(stat: &FileStat) -> bool {
    is_kind(stat, SFlag::S_IFLNK)
}

fn is_kind(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

/// The number behind an error of the standard library.
pub fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn wanted(flags: u32) -> OFlag {
    let flags = OFlag::from_bits_truncate(flags as i32) & OPEN_FLAGS;
    flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY
}

fn permissions(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode & 0o7777)
}

fn change_owner<F: AsFd>(file: F, path: &str, uid: u32, gid: u32) -> nix::Result<()> {
    let uid = (uid != NO_ID).then(|| Uid::from_raw(uid));
    let gid = (gid != NO_ID).then(|| Gid::from_raw(gid));
    fchownat(file, path, uid, gid, AtFlags::AT_EMPTY_PATH)
}

fn time(is_set: bool, is_given: bool, (seconds, nanos): (u64, u64)) -> nix::Result<TimeSpec> {
    if !is_set {
        return Ok(TimeSpec::UTIME_OMIT);
    }
    if !is_given {
        return Ok(TimeSpec::UTIME_NOW);
    }
    let nanos = i64::try_from(nanos).map_err(|_| Errno::EINVAL)?;
    // Larger ones would mean "now" and "leave it".
    if nanos >= 1_000_000_000 {
        return Err(Errno::EINVAL);
    }
    Ok(TimeSpec::new(seconds as i64, nanos))
}
