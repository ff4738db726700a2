// SPDX-License-Identifier: Apache-2.0
//! What a client holds: files by the numbers it gave them.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use crate::files::{Entry, weight};
use crate::request::Fid;

/// Files that a client may hold; each is a descriptor or two.
const MAX_FIDS: usize = 65536;

/// Memory for the folders that a client reads, together.
const MAX_LISTED: usize = 64 << 20;

/// A file that a client holds.
#[derive(Debug)]
pub struct Held {
    /// What it is.
    pub handle: OwnedFd,
    /// How it is open.
    pub opened: Opened,
    /// The guest's user who attached.
    pub uid: u32,
}

/// How a file is open.
#[derive(Debug)]
pub enum Opened {
    /// Not at all.
    No,
    /// A plain file.
    File(File),
    /// A folder, with its entries as they were when it was read from the start.
    Folder(Vec<Entry>),
}

impl Opened {
    /// The file.
    pub fn file(&self) -> nix::Result<&File> {
        match self {
            Self::File(file) => Ok(file),
            _ => Err(Errno::EBADF),
        }
    }

    fn weight(&self) -> usize {
        match self {
            Self::Folder(entries) => entries.iter().map(|entry| weight(&entry.name)).sum(),
            _ => 0,
        }
    }
}

/// All that one client holds.
#[derive(Debug, Default)]
pub struct Fids {
    held: BTreeMap<Fid, Held>,
    listed: usize,
}

impl Fids {
    /// What the number stands for.
    pub fn get(&self, fid: Fid) -> nix::Result<&Held> {
        self.held.get(&fid).ok_or(Errno::EBADF)
    }

    /// Whether the number is free.
    pub fn is_free(&self, fid: Fid) -> bool {
        !self.held.contains_key(&fid)
    }

    /// Lets the number stand for a file from now on.
    pub fn put(&mut self, fid: Fid, held: Held) -> nix::Result<()> {
        if self.is_free(fid) && self.held.len() >= MAX_FIDS {
            return Err(Errno::EMFILE);
        }
        self.drop(fid);
        self.held.insert(fid, held);
        Ok(())
    }

    /// Changes how a file is open.
    pub fn set_opened(&mut self, fid: Fid, opened: Opened) -> nix::Result<()> {
        let held = self.held.get_mut(&fid).ok_or(Errno::EBADF)?;
        self.listed = self.listed + opened.weight() - held.opened.weight();
        held.opened = opened;
        Ok(())
    }

    /// Gives a number up; whether it stood for something.
    pub fn drop(&mut self, fid: Fid) -> bool {
        match self.held.remove(&fid) {
            Some(held) => {
                self.listed -= held.opened.weight();
                true
            }
            None => false,
        }
    }

    /// Gives all numbers up.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Memory that is left for folders.
    pub fn room(&self) -> usize {
        MAX_LISTED.saturating_sub(self.listed)
    }
}
