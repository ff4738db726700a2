// SPDX-License-Identifier: Apache-2.0
//! One client's requests, answered one after the other.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::FileStat;

use crate::fids::{Fids, Held, Opened};
use crate::files::{self, Tree};
use crate::request::{Fid, Lock, Request};
use crate::wire::Writer;

/// Largest message that is agreed on, and the smallest.
pub const MAX_MESSAGE: u32 = 512 << 10;
const MIN_MESSAGE: u32 = 4096;

/// What is around the data of a read: size, type, tag, count.
const READ_OVERHEAD: u32 = 11;

/// `V9FS_MAGIC` (linux/magic.h)
const MAGIC: u32 = 0x0102_1997;

/// Bits of a qid's type.
const QID_FOLDER: u8 = 0x80;
const QID_LINK: u8 = 0x02;

/// All attributes up to the number of blocks (`P9_STATS_BASIC`).
const BASIC_ATTRIBUTES: u64 = 0x7ff;

/// File systems whose inode numbers are told apart.
const MAX_DEVICES: usize = 1 << 16;

/// A client.
#[derive(Debug)]
pub struct Server {
    tree: Arc<Tree>,
    fids: Fids,
    devices: Vec<u64>,
    message: u32,
}

impl Server {
    /// A client of this tree, who holds nothing yet.
    pub fn new(tree: Arc<Tree>) -> Self {
        Self {
            tree,
            fids: Fids::default(),
            devices: Vec::new(),
            message: MIN_MESSAGE,
        }
    }

    /// Largest message that may come now.
    pub fn message_limit(&self) -> u32 {
        self.message
    }

    /// Does what is asked for; the body of the answer.
    pub fn answer(&mut self, request: &Request<'_>) -> nix::Result<Writer> {
        let mut out = Writer::default();
        match request {
            Request::Version { msize, version } => self.version(*msize, version, &mut out)?,
            Request::Attach { fid, uid } => self.attach(*fid, *uid, &mut out)?,
            Request::Walk { fid, new, names } => self.walk(*fid, *new, names, &mut out)?,
            // Each request is over before the next one is read.
            Request::Flush => {}
            Request::Clunk { fid } => {
                if !self.fids.drop(*fid) {
                    return Err(Errno::EBADF);
                }
            }
            Request::Remove { fid } => {
                self.fids.drop(*fid);
                return Err(Errno::EOPNOTSUPP);
            }
            Request::Auth | Request::Unsupported => return Err(Errno::EOPNOTSUPP),
            request => self.answer_file(request, &mut out)?,
        }
        Ok(out)
    }

    fn answer_file(&mut self, request: &Request<'_>, out: &mut Writer) -> nix::Result<()> {
        match request {
            Request::Read { fid, offset, count } => self.read(*fid, *offset, *count, out),
            Request::Write { fid, offset, data } => {
                let file = self.fids.get(*fid)?.opened.file()?;
                let written = file.write_at(data, *offset);
                let count = written.map_err(|error| files::errno(&error))?;
                out.u32(u32::try_from(count).map_err(|_| Errno::EIO)?);
                Ok(())
            }
            Request::Statfs { fid } => self.statfs(*fid, out),
            Request::Open { fid, flags } => self.open(*fid, *flags, out),
            Request::Readlink { fid } => {
                out.text(&files::read_link(&self.fids.get(*fid)?.handle)?);
                Ok(())
            }
            Request::Getattr { fid } => self.attributes(*fid, out),
            Request::Setattr { fid, change } => {
                let held = self.fids.get(*fid)?;
                self.tree
                    .change(&held.handle, held.opened.file().ok(), change)
            }
            Request::Readdir { fid, offset, count } => self.list(*fid, *offset, *count, out),
            Request::Fsync { fid, data_only } => match &self.fids.get(*fid)?.opened {
                Opened::File(file) if *data_only => file.sync_data(),
                Opened::File(file) => file.sync_all(),
                _ => Ok(()),
            }
            .map_err(|error| files::errno(&error)),
            Request::Lock { fid, lock } => {
                out.u8(self.lock(*fid, lock)?);
                Ok(())
            }
            Request::Getlock { fid, lock } => self.get_lock(*fid, lock, out),
            request => self.answer_folder(request, out),
        }
    }

    fn answer_folder(&mut self, request: &Request<'_>, out: &mut Writer) -> nix::Result<()> {
        let tree = Arc::clone(&self.tree);
        match request {
            Request::Create {
                fid,
                name,
                flags,
                mode,
                gid,
            } => {
                let held = self.fids.get(*fid)?;
                let owner = (held.uid, *gid);
                let file = tree.create(&held.handle, name, *flags, *mode, owner)?;
                let handle = files::find(&held.handle, name)?;
                let uid = held.uid;
                self.qid_of(&files::stat(&handle)?, out)?;
                // The client may send as much as a message holds.
                out.u32(0);
                let opened = Opened::File(file);
                self.fids.put(
                    *fid,
                    Held {
                        handle,
                        opened,
                        uid,
                    },
                )
            }
            Request::Symlink {
                fid,
                name,
                target,
                gid,
            } => {
                let held = self.fids.get(*fid)?;
                let made = tree.make_link(&held.handle, name, target, (held.uid, *gid))?;
                self.qid_of(&files::stat(&made)?, out)
            }
            Request::Mkdir {
                folder,
                name,
                mode,
                gid,
            } => {
                let held = self.fids.get(*folder)?;
                let made = tree.make_folder(&held.handle, name, *mode, (held.uid, *gid))?;
                self.qid_of(&files::stat(&made)?, out)
            }
            Request::Link { folder, fid, name } => {
                let folder = self.fids.get(*folder)?;
                tree.link(&self.fids.get(*fid)?.handle, &folder.handle, name)
            }
            Request::Rename {
                old_folder,
                old_name,
                new_folder,
                new_name,
            } => {
                let old = &self.fids.get(*old_folder)?.handle;
                let new = &self.fids.get(*new_folder)?.handle;
                files::rename(old, old_name, new, new_name)
            }
            Request::Unlink {
                folder,
                name,
                flags,
            } => files::remove(&self.fids.get(*folder)?.handle, name, *flags),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    fn version(&mut self, size: u32, version: &[u8], out: &mut Writer) -> nix::Result<()> {
        if size < MIN_MESSAGE {
            return Err(Errno::EINVAL);
        }
        // A new beginning, as the protocol says.
        self.fids.clear();
        self.message = size.min(MAX_MESSAGE);
        let known = version == b"9P2000.L";
        out.u32(self.message)
            .text(if known { version } else { b"unknown" });
        Ok(())
    }

    fn attach(&mut self, fid: Fid, uid: u32, out: &mut Writer) -> nix::Result<()> {
        if !self.fids.is_free(fid) {
            return Err(Errno::EBADF);
        }
        let handle = self.tree.root()?;
        self.qid_of(&files::stat(&handle)?, out)?;
        let opened = Opened::No;
        self.fids.put(
            fid,
            Held {
                handle,
                opened,
                uid,
            },
        )
    }

    fn walk(&mut self, fid: Fid, new: Fid, names: &[&[u8]], out: &mut Writer) -> nix::Result<()> {
        let held = self.fids.get(fid)?;
        if new != fid && !self.fids.is_free(new) {
            return Err(Errno::EBADF);
        }
        let uid = held.uid;
        let mut handle = files::copy(&held.handle)?;
        let mut stats = Vec::new();
        for name in names {
            match files::find(&handle, name).and_then(|next| Ok((files::stat(&next)?, next))) {
                Ok((stat, next)) => {
                    stats.push(stat);
                    handle = next;
                }
                Err(errno) if stats.is_empty() => return Err(errno),
                // So far and no farther: the client sees it by the number of qids.
                Err(_) => break,
            }
        }
        out.u16(u16::try_from(stats.len()).map_err(|_| Errno::EINVAL)?);
        for stat in &stats {
            self.qid_of(stat, out)?;
        }
        if stats.len() == names.len() {
            let opened = Opened::No;
            self.fids.put(
                new,
                Held {
                    handle,
                    opened,
                    uid,
                },
            )?;
        }
        Ok(())
    }

    fn read(&self, fid: Fid, offset: u64, count: u32, out: &mut Writer) -> nix::Result<()> {
        let file = self.fids.get(fid)?.opened.file()?;
        let count = count.min(self.message - READ_OVERHEAD);
        let mut data = vec![0; usize::try_from(count).map_err(|_| Errno::EINVAL)?];
        let read = file.read_at(&mut data, offset);
        let count = read.map_err(|error| files::errno(&error))?;
        let data = data.get(..count).unwrap_or_default();
        out.u32(u32::try_from(count).map_err(|_| Errno::EIO)?)
            .raw(data);
        Ok(())
    }

    fn open(&mut self, fid: Fid, flags: u32, out: &mut Writer) -> nix::Result<()> {
        let handle = &self.fids.get(fid)?.handle;
        let stat = files::stat(handle)?;
        let opened = if files::is_folder(&stat) {
            Opened::Folder(files::list(handle, self.fids.room())?)
        } else {
            Opened::File(self.tree.open(handle, flags)?)
        };
        self.fids.set_opened(fid, opened)?;
        self.qid_of(&stat, out)?;
        out.u32(0);
        Ok(())
    }

    fn list(&mut self, fid: Fid, offset: u64, count: u32, out: &mut Writer) -> nix::Result<()> {
        let about = files::stat(&self.fids.get(fid)?.handle)?;
        let device = self.device(about.st_dev)?;
        if offset == 0 {
            // From the start: as it is now, which rewinddir(3) promises.
            let entries = files::list(&self.fids.get(fid)?.handle, self.fids.room())?;
            self.fids.set_opened(fid, Opened::Folder(entries))?;
        }
        let Opened::Folder(entries) = &self.fids.get(fid)?.opened else {
            return Err(Errno::EBADF);
        };
        let first = usize::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let room = count.min(self.message - READ_OVERHEAD);
        let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
        let mut list = Writer::default();
        for (index, entry) in entries.iter().enumerate().skip(first) {
            // qid, offset, type and the name with its length
            if list.len() + 13 + 8 + 1 + 2 + entry.name.len() > room {
                break;
            }
            let kind = match entry.kind {
                libc::DT_DIR => QID_FOLDER,
                libc::DT_LNK => QID_LINK,
                _ => 0,
            };
            list.u8(kind).u32(0).u64(entry.inode ^ device << 48);
            list.u64(index as u64 + 1).u8(entry.kind).text(&entry.name);
        }
        out.u32(u32::try_from(list.len()).map_err(|_| Errno::EIO)?)
            .raw(&list.into_bytes());
        Ok(())
    }

    fn statfs(&self, fid: Fid, out: &mut Writer) -> nix::Result<()> {
        let about = files::file_system(&self.fids.get(fid)?.handle)?;
        let block = u32::try_from(about.block_size()).unwrap_or(4096);
        out.u32(MAGIC).u32(block).u64(about.blocks());
        out.u64(about.blocks_free()).u64(about.blocks_available());
        // Which disk of the host it is, is not the guest's business.
        out.u64(about.files()).u64(about.files_free()).u64(0);
        out.u32(255);
        Ok(())
    }

    fn attributes(&mut self, fid: Fid, out: &mut Writer) -> nix::Result<()> {
        let stat = files::stat(&self.fids.get(fid)?.handle)?;
        out.u64(BASIC_ATTRIBUTES);
        self.qid_of(&stat, out)?;
        out.u32(stat.st_mode).u32(stat.st_uid).u32(stat.st_gid);
        out.u64(stat.st_nlink).u64(stat.st_rdev);
        for number in [
            stat.st_size,
            stat.st_blksize,
            stat.st_blocks,
            stat.st_atime,
            stat.st_atime_nsec,
            stat.st_mtime,
            stat.st_mtime_nsec,
            stat.st_ctime,
            stat.st_ctime_nsec,
        ] {
            out.u64(number as u64);
        }
        // Birth (two numbers), generation and data version are not known.
        out.u64(0).u64(0).u64(0).u64(0);
        Ok(())
    }

    /// A file's identity. Each file system has numbers of its own.
    fn qid_of(&mut self, stat: &FileStat, out: &mut Writer) -> nix::Result<()> {
        let kind = match stat {
            stat if files::is_folder(stat) => QID_FOLDER,
            stat if files::is_link(stat) => QID_LINK,
            _ => 0,
        };
        let device = self.device(stat.st_dev)?;
        // A cache of the client is stale when this changes.
        let changed = stat.st_mtime_nsec ^ stat.st_mtime.rotate_left(30);
        let version = changed as u32;
        out.u8(kind).u32(version).u64(stat.st_ino ^ device << 48);
        Ok(())
    }

    fn device(&mut self, number: u64) -> nix::Result<u64> {
        let known = self.devices.iter().position(|known| *known == number);
        let index = match known {
            Some(index) => index,
            None if self.devices.len() >= MAX_DEVICES => return Err(Errno::ENOMEM),
            None => {
                self.devices.push(number);
                self.devices.len() - 1
            }
        };
        Ok(index as u64)
    }

    fn lock(&self, fid: Fid, lock: &Lock<'_>) -> nix::Result<u8> {
        let file = self.fids.get(fid)?.opened.file()?;
        let description = describe(lock)?;
        // Locks of the open file: those of the process would be one for all
        // clients. Nobody waits here; a client that may wait asks again.
        match fcntl(file, FcntlArg::F_OFD_SETLK(&description)) {
            Ok(_) => Ok(0),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(1),
            Err(errno) => Err(errno),
        }
    }

    fn get_lock(&self, fid: Fid, lock: &Lock<'_>, out: &mut Writer) -> nix::Result<()> {
        let file = self.fids.get(fid)?.opened.file()?;
        let mut description = describe(lock)?;
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut description))?;
        let kind = match i32::from(description.l_type) {
            libc::F_RDLCK => 0,
            libc::F_WRLCK => 1,
            _ => 2,
        };
        out.u8(kind);
        if kind == 2 {
            out.u64(lock.start).u64(lock.length);
        } else {
            out.u64(description.l_start as u64);
            out.u64(description.l_len as u64);
        }
        out.u32(lock.process).text(lock.client);
        Ok(())
    }
}

fn describe(lock: &Lock<'_>) -> nix::Result<libc::flock> {
    let kind = match lock.kind {
        0 => libc::F_RDLCK,
        1 => libc::F_WRLCK,
        2 => libc::F_UNLCK,
        _ => return Err(Errno::EINVAL),
    };
    let number = |value| i64::try_from(value).map_err(|_| Errno::EINVAL);
    Ok(libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: number(lock.start)?,
        l_len: number(lock.length)?,
        l_pid: 0,
    })
}
