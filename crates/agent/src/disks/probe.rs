// SPDX-License-Identifier: Apache-2.0
//! What is on a disk, by its bytes alone: a file system of ours, nothing, or something else.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use super::FsType;
use super::btrfs;

/// Everything that Linux mounts begins within it.
const HEAD: u64 = 1 << 20;

/// Where copies of superblocks are: ext4's second one for blocks of 1, 2 and 4 KiB, btrfs's two.
const COPIES: [u64; 5] = [
    8193 << 10,
    16384 << 11,
    32768 << 12,
    btrfs::MIRRORS[0],
    btrfs::MIRRORS[1],
];
const COPY: u64 = 4096;

/// Backups of partition tables and the metadata of old RAIDs are at the end.
const TAIL: u64 = 1 << 20;

/// ext4.h: the superblock, its magic number, its state and its features.
pub const EXT4_SUPERBLOCK: u64 = 1024;
const EXT4_MAGIC: u16 = 0xef53;
const EXT4_STATE_CLEAN: u16 = 1;
const EXT4_STATE_ERRORS: u16 = 2;
const EXT4_INCOMPAT_RECOVER: u32 = 4;

/// Offset and bytes by which others are known: what they hold is not ours to repair.
const STRANGERS: &[(usize, &[u8], &str)] = &[
    (0, b"XFSB", "an xfs file system"),
    (0, b"hsqs", "a squashfs file system"),
    (0, b"LUKS\xba\xbe", "an encrypted volume"),
    (512, b"EFI PART", "a partition table"),
    (510, b"\x55\xaa", "a partition table or a boot sector"),
    (512, b"LABELONE", "an LVM volume"),
    (536, b"LVM2 001", "an LVM volume"),
    (1024, b"\xe2\xe1\xf5\xe0", "an erofs file system"),
    (1024, b"\x10\x20\xf5\xf2", "an f2fs file system"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4096, b"\xfc\x4e\x2b\xa9", "a part of a RAID"),
    (32769, b"CD001", "a CD"),
];

/// What a disk has on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing at all where a file system or its copies would be.
    Blank,
    /// ext2 to ext4.
    Ext4(Ext4),
    /// btrfs with a good superblock.
    Btrfs,
    /// Known, and none of ours.
    Stranger(&'static str),
    /// Neither empty nor known: ours with its beginning lost, or anything.
    Unknown,
}

/// The state that an ext4 says it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ext4 {
    /// Nothing is wrong that its journal would not mend.
    pub clean: bool,
    /// Its journal has to be written back before it can be read.
    pub needs_journal: bool,
}

impl Found {
    /// The file system, where there is one that can be mounted as it is.
    pub fn fstype(self) -> Option<FsType> {
        match self {
            Self::Ext4(_) => Some(FsType::Ext4),
            Self::Btrfs => Some(FsType::Btrfs),
            _ => None,
        }
    }
}

/// Looks at a disk.
pub fn probe(disk: &File) -> io::Result<Found> {
    let size = size_of_disk(disk)?;
    let mut head = Vec::new();
    let mut reader = disk;
    reader.seek(SeekFrom::Start(0))?;
    reader.take(HEAD).read_to_end(&mut head)?;
    if let Some(found) = known(&head) {
        return Ok(found);
    }
    let places = COPIES
        .into_iter()
        .map(|at| (at, COPY))
        .chain([(size.saturating_sub(TAIL), TAIL)]);
    let mut blank = is_zero(&head);
    for (at, length) in places {
        blank = blank && is_zero(&read_some(disk, at, length.min(size.saturating_sub(at)))?);
    }
    Ok(if blank { Found::Blank } else { Found::Unknown })
}

fn known(head: &[u8]) -> Option<Found> {
    let superblock = |at: u64| usize::try_from(at).ok().and_then(|at| head.get(at..));
    if superblock(btrfs::PRIMARY).is_some_and(|bytes| btrfs::is_good(bytes, btrfs::PRIMARY)) {
        return Some(Found::Btrfs);
    }
    if let Some(state) = superblock(EXT4_SUPERBLOCK).and_then(ext4_state) {
        return Some(Found::Ext4(state));
    }
    STRANGERS
        .iter()
        .find(|(at, magic, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)))
        .map(|(_, _, name)| Found::Stranger(name))
}

/// The state in a superblock of ext4; `None` where it is none.
fn ext4_state(superblock: &[u8]) -> Option<Ext4> {
    let half = |at: usize| {
        Some(u16::from_le_bytes(
            superblock.get(at..at + 2)?.try_into().ok()?,
        ))
    };
    let word = |at: usize| {
        Some(u32::from_le_bytes(
            superblock.get(at..at + 4)?.try_into().ok()?,
        ))
    };
    if half(56)? != EXT4_MAGIC {
        return None;
    }
    let state = half(58)?;
    Some(Ext4 {
        clean: state & (EXT4_STATE_CLEAN | EXT4_STATE_ERRORS) == EXT4_STATE_CLEAN,
        needs_journal: word(96)? & EXT4_INCOMPAT_RECOVER != 0,
    })
}

/// The size of a block device, or of a file.
pub fn size_of_disk(mut disk: &File) -> io::Result<u64> {
    disk.seek(SeekFrom::End(0))
}

/// As many of these bytes as there are.
pub fn read_some(disk: &File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
    let mut done = 0;
    while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match disk.read_at(rest, at + done as u64)? {
            0 => break,
            count => done += count,
        }
    }
    data.truncate(done);
    Ok(data)
}

fn is_zero(data: &[u8]) -> bool {
    data.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
pub mod tests {
    use std::io::Write;

    use super::*;

    /// A file in memory with these bytes at these places.
    pub fn disk(size: u64, content: &[(u64, &[u8])]) -> File {
        let name = c"disk";
        let fd = nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::empty()).unwrap();
        let mut file = File::from(fd);
        file.set_len(size).unwrap();
        for (at, bytes) in content {
            file.seek(SeekFrom::Start(*at)).unwrap();
            file.write_all(bytes).unwrap();
        }
        file
    }

    const SIZE: u64 = 200 << 20;

    fn ext4(state: u16, incompat: u32) -> Vec<u8> {
        let mut superblock = vec![0; 1024];
        superblock[56..58].copy_from_slice(&EXT4_MAGIC.to_le_bytes());
        superblock[58..60].copy_from_slice(&state.to_le_bytes());
        superblock[96..100].copy_from_slice(&incompat.to_le_bytes());
        superblock
    }

    #[test]
    fn blank_is_nothing_at_all() {
        assert_eq!(probe(&disk(SIZE, &[])).unwrap(), Found::Blank);
        assert_eq!(probe(&disk(16 << 20, &[])).unwrap(), Found::Blank);
        for at in [0, 4000, HEAD - 1, 8193 << 10, 128 << 20, 64 << 20, SIZE - 1] {
            let found = probe(&disk(SIZE, &[(at, b"x")])).unwrap();
            assert_eq!(found, Found::Unknown, "{at}");
        }
    }

    #[test]
    fn ext4_tells_its_state() {
        for (state, incompat, clean, needs_journal) in [
            (1, 0, true, false),
            (1, 4, true, true),
            (0, 0, false, false),
            (3, 4, false, true),
        ] {
            let found = probe(&disk(SIZE, &[(1024, &ext4(state, incompat))])).unwrap();
            let expected = Ext4 {
                clean,
                needs_journal,
            };
            assert_eq!(found, Found::Ext4(expected));
        }
    }

    #[test]
    fn strangers_are_named() {
        for (at, magic, name) in STRANGERS {
            let found = probe(&disk(SIZE, &[(*at as u64, magic)])).unwrap();
            assert_eq!(found, Found::Stranger(name));
        }
        // A boot sector before an ext4 is common; what can be mounted is.
        let both = disk(SIZE, &[(510, b"\x55\xaa"), (1024, &ext4(1, 0))]);
        assert_eq!(probe(&both).unwrap().fstype(), Some(FsType::Ext4));
    }
}
