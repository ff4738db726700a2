// SPDX-License-Identifier: Apache-2.0
//! The superblock of btrfs, of which a disk has up to three, and of which the
//! kernel mounts by the first alone. The layout is in the kernel's `btrfs_tree.h`.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::probe::{read_some, size_of_disk};

/// Where the first superblock is, and where its copies are, on disks so large.
pub const PRIMARY: u64 = 64 << 10;
pub const MIRRORS: [u64; 2] = [64 << 20, 256 << 30];

const SIZE: usize = 4096;
const CHECKSUM: usize = 32;
const PLACE: usize = 48;
const MAGIC_AT: usize = 64;
const MAGIC: &[u8] = b"_BHRfS_M";
const GENERATION: usize = 72;
const CHECKSUM_TYPE: usize = 196;
const CRC32C: u16 = 0;

/// Whether these bytes begin with a superblock that says to be here and is undamaged.
pub fn is_good(bytes: &[u8], at: u64) -> bool {
    let Some(block) = bytes.get(..SIZE) else {
        return false;
    };
    let checksummed = match number(block, CHECKSUM_TYPE, 2) {
        Some(kind) if kind == u64::from(CRC32C) => {
            number(block, 0, 4) == block.get(CHECKSUM..).map(|rest| u64::from(crc32c(rest)))
        }
        // Others are for the kernel to check.
        _ => true,
    };
    block.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) == Some(MAGIC)
        && number(block, PLACE, 8) == Some(at)
        && checksummed
}

/// Writes the newest copy of the superblock over the first one. False where there is no copy.
pub fn restore(disk: &File) -> io::Result<bool> {
    let size = size_of_disk(disk)?;
    let mut newest: Option<(u64, Vec<u8>)> = None;
    for at in MIRRORS.into_iter().filter(|at| at + SIZE as u64 <= size) {
        let block = read_some(disk, at, SIZE as u64)?;
        let generation = number(&block, GENERATION, 8).unwrap_or(0);
        // Without its checksum a copy is not to be trusted, nor can it be made anew.
        let known = number(&block, CHECKSUM_TYPE, 2) == Some(u64::from(CRC32C));
        let newer = newest.as_ref().is_none_or(|(best, _)| generation > *best);
        if known && newer && is_good(&block, at) {
            newest = Some((generation, block));
        }
    }
    let Some((_, mut block)) = newest else {
        return Ok(false);
    };
    put(&mut block, PLACE, &PRIMARY.to_le_bytes());
    let sum = crc32c(block.get(CHECKSUM..).unwrap_or_default());
    put(&mut block, 0, &sum.to_le_bytes());
    disk.write_all_at(&block, PRIMARY)?;
    disk.sync_all()?;
    Ok(true)
}

fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = block.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn number(block: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = block.get(at..at + width)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    )
}

/// CRC-32C (Castagnoli), as in RFC 3720; a few thousand bytes need no table.
fn crc32c(data: &[u8]) -> u32 {
    let mut sum = !0_u32;
    for byte in data {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 {
                sum >> 1 ^ 0x82f6_3b78
            } else {
                sum >> 1
            };
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::super::probe::tests::disk;
    use super::*;

    fn superblock(at: u64, generation: u64) -> Vec<u8> {
        let mut block = vec![7; SIZE];
        put(&mut block, PLACE, &at.to_le_bytes());
        put(&mut block, MAGIC_AT, MAGIC);
        put(&mut block, GENERATION, &generation.to_le_bytes());
        put(&mut block, CHECKSUM_TYPE, &CRC32C.to_le_bytes());
        let sum = crc32c(&block[CHECKSUM..]);
        put(&mut block, 0, &sum.to_le_bytes());
        block
    }

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn a_copy_takes_the_place_of_the_first() {
        let mirror = superblock(MIRRORS[0], 9);
        let broken = disk(100 << 20, &[(PRIMARY, b"garbage"), (MIRRORS[0], &mirror)]);
        assert!(restore(&broken).unwrap());
        let first = read_some(&broken, PRIMARY, SIZE as u64).unwrap();
        assert!(is_good(&first, PRIMARY));
        assert_eq!(first, superblock(PRIMARY, 9));
    }

    #[test]
    fn a_damaged_copy_is_none() {
        for at in [0, 40, PLACE, MAGIC_AT, 4095] {
            let mut mirror = superblock(MIRRORS[0], 9);
            mirror[at] ^= 1;
            let broken = disk(100 << 20, &[(MIRRORS[0], &mirror)]);
            assert!(!restore(&broken).unwrap(), "{at}");
        }
        assert!(!restore(&disk(1 << 20, &[])).unwrap());
    }
}
