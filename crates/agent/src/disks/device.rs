// SPDX-License-Identifier: Apache-2.0
//! A block device by the serial number that the host gave it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A disk is there when its driver is loaded; a slow host gets some time.
const LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
const DRIVER: &str = "/sys/bus/virtio/drivers/virtio_blk";

/// The block device whose serial number the host set.
pub fn find_disk(serial: &str) -> io::Result<PathBuf> {
    if !Path::new(DRIVER).exists() {
        // The host reads the words about a driver.
        return Err(io::Error::other(format!(
            "no disk with serial {serial}: the kernel has no driver virtio_blk"
        )));
    }
    let end = Instant::now() + LIMIT;
    loop {
        for entry in fs::read_dir("/sys/block")?.flatten() {
            let known = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
            if known.trim_end() == serial {
                return wait_for(&Path::new("/dev").join(entry.file_name()));
            }
        }
        if Instant::now() >= end {
            return Err(io::Error::other(format!("no disk with serial {serial}")));
        }
        std::thread::sleep(POLL);
    }
}

/// The device itself, once it is there.
pub fn wait_for(device: &Path) -> io::Result<PathBuf> {
    let end = Instant::now() + LIMIT;
    while !device.exists() {
        if Instant::now() >= end {
            return Err(io::Error::other(format!("no device {}", device.display())));
        }
        std::thread::sleep(POLL);
    }
    Ok(device.to_owned())
}

/// Whether the host lets nobody write to a block device.
pub fn is_read_only(device: &Path) -> bool {
    let name = device.file_name().unwrap_or_default();
    let flag = fs::read_to_string(Path::new("/sys/block").join(name).join("ro"));
    flag.is_ok_and(|text| text.trim_end() == "1")
}
