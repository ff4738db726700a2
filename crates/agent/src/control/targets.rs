// SPDX-License-Identifier: Apache-2.0
//! Folders that are made to mount on: remembered, so that they go with the
//! mount, and folders of others stay.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::mkdir;

/// Mode of a folder when nobody names one.
pub const DEFAULT_MODE: Mode = Mode::from_bits_truncate(0o755);

/// Folders remembered; those made later stay behind empty.
const MAX_REMEMBERED: usize = 4096;

/// Longest path the kernel takes (`PATH_MAX`), without its end.
const MAX_PATH: usize = 4095;

/// The folders that were made.
#[derive(Default)]
pub struct Targets(Mutex<BTreeSet<PathBuf>>);

impl Targets {
    /// Makes a folder and those above it, as far as they are missing.
    pub fn create(&self, target: &Path, mode: Mode) -> nix::Result<()> {
        let mut path = PathBuf::new();
        for component in target.components() {
            path.push(component);
            match mkdir(&path, mode) {
                Ok(()) => self.remember(&path),
                Err(Errno::EEXIST | Errno::EROFS) if path.is_dir() => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn remember(&self, path: &Path) {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() < MAX_REMEMBERED {
            made.insert(path.to_owned());
        }
    }

    /// Removes a folder, and those above it, as far as they were made here and
    /// are empty.
    pub fn remove(&self, target: &Path) {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // As `create` wrote it: without "." and double slashes.
        let path: PathBuf = target.components().collect();
        for folder in path.ancestors() {
            if !made.contains(folder) || std::fs::remove_dir(folder).is_err() {
                break;
            }
            made.remove(folder);
        }
    }
}

/// The path, if it can be one of a target: absolute, whole, not too long.
pub fn check(target: &str) -> nix::Result<&Path> {
    let path = Path::new(target);
    if target.len() > MAX_PATH {
        return Err(Errno::ENAMETOOLONG);
    }
    let is_plain = !path.components().any(|part| part == Component::ParentDir);
    if path.is_absolute() && is_plain && !target.contains('\0') {
        Ok(path)
    } else {
        Err(Errno::EINVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_made_and_empty_folders_go() {
        let dir = std::env::temp_dir().join(format!("inn-targets-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("own")).unwrap();
        let targets = Targets::default();
        for path in ["own/a/b", "own/a/c", "own"] {
            targets.create(&dir.join(path), DEFAULT_MODE).unwrap();
        }
        targets.remove(&dir.join("own//a/./b/"));
        assert!(dir.join("own/a/c").is_dir() && !dir.join("own/a/b").exists());
        std::fs::write(dir.join("own/a/c/file"), "").unwrap();
        targets.remove(&dir.join("own/a/c"));
        assert!(dir.join("own/a/c/file").is_file());
        std::fs::remove_file(dir.join("own/a/c/file")).unwrap();
        targets.remove(&dir.join("own/a/c"));
        assert!(dir.join("own").is_dir() && !dir.join("own/a").exists());
        targets.remove(&dir.join("own"));
        assert!(dir.join("own").is_dir());
        std::fs::write(dir.join("file"), "").unwrap();
        let over_file = targets.create(&dir.join("file"), DEFAULT_MODE);
        assert_eq!(over_file, Err(Errno::EEXIST));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn paths() {
        assert!(check("/mnt/a b").is_ok());
        for bad in ["", "mnt", "/mnt/../etc", "/a\0b"] {
            assert_eq!(check(bad), Err(Errno::EINVAL), "{bad:?}");
        }
        let long = format!("/{}", "x".repeat(MAX_PATH));
        assert_eq!(check(&long), Err(Errno::ENAMETOOLONG));
    }
}
