// SPDX-License-Identifier: Apache-2.0
//! The disks that a machine has beside its root: found by serial number, made
//! into a file system where they are blank, repaired where they are damaged,
//! mounted.

pub mod btrfs;
pub mod device;
pub mod mounting;
pub mod probe;
pub mod report;
pub mod space;
pub mod tools;

/// The file systems that are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsType {
    /// `ext4`
    Ext4,
    /// `btrfs`
    Btrfs,
}

impl FsType {
    /// By its name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "ext4" => Some(Self::Ext4),
            "btrfs" => Some(Self::Btrfs),
            _ => None,
        }
    }

    /// Its name, for the kernel and for its module.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Btrfs => "btrfs",
        }
    }
}

/// A disk and its place: `inn.disk="SERIAL:/guest/path:FSTYPE"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Of the block device.
    pub serial: String,
    /// Where it is mounted; absolute.
    pub path: String,
    /// What is made on it where it is blank.
    pub fstype: FsType,
}

impl Disk {
    /// From the value of `inn.disk=`.
    pub fn parse(value: &str) -> Option<Self> {
        let (serial, rest) = value.split_once(':')?;
        let (path, fstype) = rest.rsplit_once(':')?;
        (!serial.is_empty() && path.starts_with('/')).then_some(())?;
        Some(Self {
            serial: serial.to_owned(),
            path: path.to_owned(),
            fstype: FsType::parse(fstype)?,
        })
    }
}

/// Brings what is not written yet to the machine's disks.
pub fn flush() {
    for disk in report::load() {
        if let Ok(folder) = std::fs::File::open(&disk.path) {
            let _ = nix::unistd::syncfs(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_command_line() {
        let disk = Disk::parse("0123456789abcdef:/mnt/a b:btrfs").unwrap();
        assert_eq!(disk.path, "/mnt/a b");
        assert_eq!(disk.fstype, FsType::Btrfs);
        for nothing in ["", "a", "a:/b", "a:b:ext4", ":/b:ext4", "a:/b:xfs"] {
            assert_eq!(Disk::parse(nothing), None, "{nothing}");
        }
    }
}
