// SPDX-License-Identifier: Apache-2.0
//! ResizeFilesystem: the ioctls of ext4 and btrfs on a mounted file system.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::sys::stat::{major, minor};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, fstatfs};

use super::apart;
use super::proto::ResizeFilesystemRequest;
use super::targets::check;

/// The device of a file system that has but one.
const FIRST_DEVICE: u64 = 1;

/// Of a superblock of ext4: where it is, where in it the 32-bit numbers are, and
/// `INCOMPAT_64BIT`, without which the upper half of the count means nothing.
const EXT4_SUPERBLOCK: u64 = 1024;
const EXT4_BLOCKS_LOW: usize = 0x04;
const EXT4_LOG_BLOCK: usize = 0x18;
const EXT4_INCOMPAT: usize = 0x60;
const EXT4_BLOCKS_HIGH: usize = 0x150;
const EXT4_64BIT: u32 = 0x80;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolumeArguments {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_dev_info_args`.
#[repr(C)]
struct DeviceInfo {
    device: u64,
    uuid: [u8; 16],
    used: u64,
    total: u64,
    unused: [u64; 379],
    path: [u8; 1024],
}

const _: () = assert!(size_of::<VolumeArguments>() == 4096 && size_of::<DeviceInfo>() == 4096);

// EXT4_IOC_RESIZE_FS, BTRFS_IOC_RESIZE, BTRFS_IOC_DEV_INFO.
nix::ioctl_write_ptr!(ext4_resize, b'f', 16, u64);
nix::ioctl_write_ptr!(btrfs_resize, 0x94, 3, VolumeArguments);
nix::ioctl_readwrite!(btrfs_device, 0x94, 30, DeviceInfo);

/// Resizes; the size afterwards.
pub async fn resize(request: ResizeFilesystemRequest) -> nix::Result<u64> {
    apart(move || {
        let folder = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(check(&request.target)?)
            .map_err(|error| errno(&error))?;
        match fstatfs(&folder)?.filesystem_type() {
            EXT4_SUPER_MAGIC => resize_ext4(&folder, request.size_bytes),
            BTRFS_SUPER_MAGIC => resize_btrfs(&folder, request.size_bytes),
            _ => Err(Errno::EOPNOTSUPP),
        }
    })
    .await
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn resize_ext4(folder: &File, wanted: u64) -> nix::Result<u64> {
    let device = Device::of(folder).map_err(|error| errno(&error))?;
    let extent = || device.ext4_extent().map_err(|error| errno(&error));
    let (blocks, block_bytes) = extent()?;
    let size = if wanted == 0 { device.bytes } else { wanted };
    let goal = size / block_bytes;
    if wanted != 0 && goal < blocks {
        // Only resize2fs can, and only while nobody has it mounted.
        return Err(Errno::EOPNOTSUPP);
    }
    if goal > blocks {
        // SAFETY: the ioctl reads one u64, the number of blocks.
        unsafe { ext4_resize(folder.as_raw_fd(), &raw const goal) }?;
    }
    let (blocks, block_bytes) = extent()?;
    Ok(blocks * block_bytes)
}

/// The disk under a file system.
struct Device {
    node: File,
    bytes: u64,
}

impl Device {
    fn of(folder: &File) -> io::Result<Self> {
        let number = folder.metadata()?.dev();
        let about = format!("/sys/dev/block/{}:{}", major(number), minor(number));
        let event = std::fs::read_to_string(format!("{about}/uevent"))?;
        let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="));
        let name = name.ok_or(Errno::ENODEV)?;
        let sectors = std::fs::read_to_string(format!("{about}/size"))?;
        let sectors: u64 = sectors.trim().parse().map_err(|_| Errno::EIO)?;
        Ok(Self {
            node: File::open(format!("/dev/{name}"))?,
            bytes: sectors * 512,
        })
    }

    /// Number and size of the blocks, from the superblock; the kernel keeps its
    /// own in the same pages. (What statfs(2) counts leaves the tables out.)
    fn ext4_extent(&self) -> io::Result<(u64, u64)> {
        let mut block = [0; 1024];
        self.node.read_exact_at(&mut block, EXT4_SUPERBLOCK)?;
        ext4_extent(&block).ok_or_else(|| Errno::EIO.into())
    }
}

fn ext4_extent(superblock: &[u8; 1024]) -> Option<(u64, u64)> {
    let number = |at: usize| {
        let bytes = superblock.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let high = if number(EXT4_INCOMPAT)? & EXT4_64BIT == 0 {
        0
    } else {
        u64::from(number(EXT4_BLOCKS_HIGH)?)
    };
    let blocks = high << 32 | u64::from(number(EXT4_BLOCKS_LOW)?);
    let block_bytes = 1024_u64.checked_shl(number(EXT4_LOG_BLOCK)?)?;
    // 64 KiB is the largest there is.
    (block_bytes <= 65536 && block_bytes != 0).then_some((blocks, block_bytes))
}

fn resize_btrfs(folder: &File, wanted: u64) -> nix::Result<u64> {
    let size = match wanted {
        0 => "max".to_owned(),
        bytes => bytes.to_string(),
    };
    let mut arguments = VolumeArguments {
        fd: 0,
        name: [0; 4088],
    };
    let text = format!("{FIRST_DEVICE}:{size}");
    for (target, byte) in arguments.name.iter_mut().zip(text.bytes()) {
        *target = byte;
    }
    // SAFETY: the ioctl reads one btrfs_ioctl_vol_args, whose name ends with zero.
    let result = unsafe { btrfs_resize(folder.as_raw_fd(), &raw const arguments) }?;
    if result > 0 {
        // BTRFS_ERROR_DEV_EXCL_RUN_IN_PROGRESS: a balance or another resize.
        return Err(Errno::EBUSY);
    }
    let mut info = DeviceInfo {
        device: FIRST_DEVICE,
        uuid: [0; 16],
        used: 0,
        total: 0,
        unused: [0; 379],
        path: [0; 1024],
    };
    // SAFETY: the ioctl reads and writes one btrfs_ioctl_dev_info_args.
    unsafe { btrfs_device(folder.as_raw_fd(), &raw mut info) }?;
    Ok(info.total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks() {
        let mut block = [0; 1024];
        block[4..8].copy_from_slice(&8192_u32.to_le_bytes());
        block[0x18] = 2;
        block[0x150] = 1;
        assert_eq!(ext4_extent(&block), Some((8192, 4096)));
        block[0x60] = 0x80;
        assert_eq!(ext4_extent(&block), Some((1 << 32 | 8192, 4096)));
        block[0x18] = 70;
        assert_eq!(ext4_extent(&block), None);
        block[0x18] = 30;
        assert_eq!(ext4_extent(&block), None);
    }
}
