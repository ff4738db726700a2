// SPDX-License-Identifier: Apache-2.0
//! Bytes that came and were not read yet, and bytes that wait to be sent.

use inn_ringwire::{MAX_FRAME, Sink};

use crate::kernel::{Area, Error};

/// A frame with its length.
pub(crate) const LARGEST: usize = MAX_FRAME as usize + 4;
/// While fewer bytes wait, more requests are made.
const ENOUGH: usize = 256 << 10;

/// Requests that wait to be sent. Frames are written into it.
#[derive(Debug)]
pub struct Output {
    area: Area,
    sent: usize,
    len: usize,
    tag: u32,
}

impl Output {
    pub(crate) fn new() -> Result<Self, Error> {
        let area = Area::new(ENOUGH + LARGEST)?;
        Ok(Self {
            area,
            sent: 0,
            len: 0,
            tag: 0,
        })
    }

    /// The next request's tag.
    pub fn next_tag(&mut self) -> u32 {
        self.tag = self.tag.checked_add(1).unwrap_or(1);
        self.tag
    }

    pub(crate) const fn last_tag(&self) -> u32 {
        self.tag
    }

    /// Whether a frame of any size fits.
    pub(crate) const fn has_room(&self) -> bool {
        self.len <= ENOUGH
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn waiting(&self) -> &[u8] {
        self.area.bytes().get(self.sent..self.len).unwrap_or(&[])
    }

    pub(crate) fn took(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.len {
            (self.sent, self.len) = (0, 0);
        }
    }
}

impl Sink for Output {
    fn put(&mut self, bytes: &[u8]) {
        // Callers bound their frames by `LARGEST`, for which `has_room` keeps room.
        let end = self.len.saturating_add(bytes.len());
        if let Some(room) = self.area.bytes_mut().get_mut(self.len..end) {
            room.copy_from_slice(bytes);
            self.len = end;
        }
    }
}

/// What came and was not read yet.
#[derive(Debug)]
pub(crate) struct Input {
    area: Area,
    read: usize,
    len: usize,
}

impl Input {
    pub(crate) fn new() -> Result<Self, Error> {
        let area = Area::new(ENOUGH + LARGEST)?;
        let (read, len) = (0, 0);
        Ok(Self { area, read, len })
    }

    /// Where more can be put; never empty while frames are taken out.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.read > 0 {
            self.area.bytes_mut().copy_within(self.read..self.len, 0);
            (self.read, self.len) = (0, self.len - self.read);
        }
        self.area.bytes_mut().get_mut(self.len..).unwrap_or(&mut [])
    }

    pub(crate) fn came(&mut self, count: usize) {
        self.len += count;
    }

    pub(crate) fn unread(&self) -> &[u8] {
        self.area.bytes().get(self.read..self.len).unwrap_or(&[])
    }

    pub(crate) fn done(&mut self, count: usize) {
        self.read += count;
    }
}
