// SPDX-License-Identifier: Apache-2.0
//! What requests do to the file system.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, fchown, lchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::{UtimensatFlags, futimens, utimensat};
use nix::sys::statvfs::Statvfs;
use nix::sys::time::TimeSpec;

use crate::attributes::Attributes;
use crate::request::flags;

/// Bits of a mode that can be set.
const MODE: u32 = 0o7777;

/// What attributes are changed on.
pub enum Subject<'a> {
    /// A path whose links are followed.
    Path(&'a Path),
    /// The thing at a path itself.
    Link(&'a Path),
    /// An open file.
    File(&'a File),
}

/// Opens a file; the flags are those of [`flags`].
pub fn open(path: &Path, wanted: u32, attributes: &Attributes) -> io::Result<File> {
    let has = |flag: u32| wanted & flag != 0;
    let exclusive = has(flags::CREATE) && has(flags::EXCLUSIVE);
    let mut options = OpenOptions::new();
    options
        .read(has(flags::READ))
        .write(has(flags::WRITE))
        .mode(attributes.permissions.unwrap_or(0o666) & MODE);
    if has(flags::APPEND) {
        options.append(true);
    }
    if has(flags::WRITE) {
        // The standard library refuses to empty a file that is only appended to.
        options
            .create(has(flags::CREATE))
            .create_new(exclusive)
            .truncate(has(flags::TRUNCATE) && !exclusive && !has(flags::APPEND));
    }
    let file = options.open(path)?;
    if has(flags::TRUNCATE) && has(flags::APPEND) {
        file.set_len(0)?;
    }
    Ok(file)
}

/// Changes what is mentioned, in OpenSSH's order; stops at the first failure.
pub fn change(subject: &Subject<'_>, to: &Attributes) -> io::Result<()> {
    if let Some(size) = to.size {
        match subject {
            Subject::Path(path) => OpenOptions::new().write(true).open(path)?.set_len(size)?,
            Subject::File(file) => file.set_len(size)?,
            Subject::Link(_) => return Err(Errno::EINVAL.into()),
        }
    }
    if let Some(mode) = to.permissions {
        let permissions = fs::Permissions::from_mode(mode & MODE);
        match subject {
            Subject::Path(path) => fs::set_permissions(path, permissions)?,
            Subject::File(file) => file.set_permissions(permissions)?,
            // Linux keeps no mode of links.
            Subject::Link(path) if !path.is_symlink() => fs::set_permissions(path, permissions)?,
            Subject::Link(_) => {}
        }
    }
    if let Some((accessed, modified)) = to.times {
        let (accessed, modified) = (
            TimeSpec::new(accessed.into(), 0),
            TimeSpec::new(modified.into(), 0),
        );
        let at = |path, how| utimensat(AT_FDCWD, path, &accessed, &modified, how);
        match subject {
            Subject::Path(path) => at(*path, UtimensatFlags::FollowSymlink)?,
            Subject::Link(path) => at(*path, UtimensatFlags::NoFollowSymlink)?,
            Subject::File(file) => futimens(file, &accessed, &modified)?,
        }
    }
    if let Some((user, group)) = to.owner {
        match subject {
            Subject::Path(path) => chown(path, Some(user), Some(group))?,
            Subject::Link(path) => lchown(path, Some(user), Some(group))?,
            Subject::File(file) => fchown(file, Some(user), Some(group))?,
        }
    }
    Ok(())
}

/// Makes a folder.
pub fn make_folder(path: &Path, attributes: &Attributes) -> io::Result<()> {
    fs::DirBuilder::new()
        .mode(attributes.permissions.unwrap_or(0o777) & MODE)
        .create(path)
}

/// Renames; replaces what is there only where that is asked for.
pub fn rename(from: &Path, to: &Path, replace: bool) -> io::Result<()> {
    if replace {
        return fs::rename(from, to);
    }
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // A file system that does not know the flag.
        Err(Errno::EINVAL | Errno::ENOSYS) if fs::symlink_metadata(to).is_err() => {
            fs::rename(from, to)
        }
        result => Ok(result?),
    }
}

/// The absolute path without links; its last part may be missing.
pub fn real_path(path: &Path) -> io::Result<PathBuf> {
    let error = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => error,
        result => return result,
    };
    let Some(name) = path.file_name() else {
        return Err(error);
    };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok(fs::canonicalize(parent)?.join(name))
}

/// The path with `~` in place of the home folder: the user's own, or `~USER`'s.
pub fn expand(path: &Path) -> io::Result<PathBuf> {
    let bytes = path.as_os_str().as_bytes();
    let Some(rest) = bytes.strip_prefix(b"~") else {
        return Ok(path.to_owned());
    };
    if !rest.is_empty() && !rest.starts_with(b"/") {
        // Other users' homes are in a database that a static program cannot ask in full.
        return Err(Errno::ENOENT.into());
    }
    let mut home = std::env::var_os("HOME").unwrap_or_else(|| OsString::from("/"));
    home.push(std::ffi::OsStr::from_bytes(rest));
    Ok(home.into())
}

/// What is told of a path.
pub fn look(path: &Path, follow: bool) -> io::Result<Metadata> {
    if follow {
        fs::metadata(path)
    } else {
        fs::symlink_metadata(path)
    }
}

/// The eleven numbers of `statvfs@openssh.com`.
pub fn room(of: &Statvfs) -> [u64; 11] {
    [
        of.block_size(),
        of.fragment_size(),
        of.blocks(),
        of.blocks_free(),
        of.blocks_available(),
        of.files(),
        of.files_free(),
        of.files_available(),
        of.filesystem_id(),
        // The protocol's two flags, read-only and no set-user-ID, are Linux's.
        of.flags().bits() & 3,
        of.name_max(),
    ]
}
