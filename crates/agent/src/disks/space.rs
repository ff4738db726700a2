// SPDX-License-Identifier: Apache-2.0
//! How full the machine's disks are.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::report::Report;

/// A change of this part of a disk is worth telling.
const PART: u64 = 500;

/// What is free on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// Its serial number.
    pub serial: String,
    /// Of its file system.
    pub total: u64,
    /// For programs that are not root's.
    pub free: u64,
}

/// The disks that are mounted where they were.
pub fn look(disks: &[Report]) -> Vec<Space> {
    disks.iter().filter_map(space_of).collect()
}

fn space_of(disk: &Report) -> Option<Space> {
    let path = Path::new(&disk.path);
    let device = |path: &Path| std::fs::metadata(path).map(|info| info.dev()).ok();
    // One that somebody unmounted shows what lies below it.
    if let Some(parent) = path.parent() {
        (device(path)? != device(parent)?).then_some(())?;
    }
    let info = statvfs(path).ok()?;
    let block = info.fragment_size();
    Some(Space {
        serial: disk.serial.clone(),
        total: info.blocks().saturating_mul(block),
        free: info.blocks_available().saturating_mul(block),
    })
}

/// Whether the host should hear of it.
pub fn differs(before: &[Space], now: &[Space]) -> bool {
    before.len() != now.len()
        || before.iter().zip(now).any(|(old, new)| {
            (&old.serial, old.total) != (&new.serial, new.total)
                || old.free.abs_diff(new.free) > new.total / PART
                // The last byte is news, however small the step.
                || (old.free == 0) != (new.free == 0)
        })
}

#[cfg(test)]
mod tests {
    use super::super::report::Condition;
    use super::*;

    fn space(free: u64) -> Vec<Space> {
        vec![Space {
            serial: "1".to_owned(),
            total: 1000 << 20,
            free,
        }]
    }

    #[test]
    fn small_changes_are_no_news() {
        assert!(!differs(&space(500 << 20), &space(499 << 20)));
        assert!(differs(&space(500 << 20), &space(497 << 20)));
        assert!(differs(&space(1), &space(0)));
        assert!(differs(&[], &space(0)));
    }

    #[test]
    fn what_is_no_mount_point_is_left_out() {
        let disk = |path: &str| Report {
            serial: "1".to_owned(),
            condition: Condition::Good,
            detail: String::new(),
            path: path.to_owned(),
        };
        assert_eq!(look(&[disk("/usr/bin"), disk("/no/such")]), []);
        assert_eq!(look(&[disk("/proc"), disk("/")]).len(), 2);
    }
}
