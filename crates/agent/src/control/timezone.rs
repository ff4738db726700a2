// SPDX-License-Identifier: Apache-2.0
//! SetTimezone, and the host's zone in the announcement: what /etc/localtime is.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use tonic::Status;

const ZONES: &str = "/usr/share/zoneinfo";
const LOCALTIME: &str = "/etc/localtime";

/// Bytes of a zone's name; the longest of tzdata has 32.
const MAX_NAME: usize = 64;

/// Makes a zone of the guest's own tzdata the local one.
pub fn set(name: &str) -> Result<(), Status> {
    let zone = zone(Path::new(ZONES), name)?;
    replace(Path::new(LOCALTIME), &zone)
        .map_err(|error| Status::internal(format!("{LOCALTIME}: {error}")))
}

/// Makes the host's zone the local one: the guest's own file of that name, or
/// the host's where the guest has none.
pub fn follow(name: &str, tzif: &[u8]) -> io::Result<()> {
    let link = Path::new(LOCALTIME);
    match zone(Path::new(ZONES), name) {
        Ok(own) => replace(link, &own),
        Err(_) => write(link, tzif),
    }
}

/// A file in place of a link, for guests without tzdata.
fn write(link: &Path, tzif: &[u8]) -> io::Result<()> {
    if !tzif.starts_with(b"TZif") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no TZif file"));
    }
    let new = link.with_extension("new");
    remove(&new)?;
    std::fs::write(&new, tzif)?;
    std::fs::rename(&new, link)
}

fn zone(zones: &Path, name: &str) -> Result<PathBuf, Status> {
    let plain = Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-/".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !plain || !name.bytes().all(allowed) {
        return Err(Status::invalid_argument("no name of a time zone"));
    }
    let path = zones.join(name);
    if path.is_file() {
        Ok(path)
    } else {
        Err(Status::not_found(format!(
            "the guest has no {}",
            path.display()
        )))
    }
}

/// Readers see the old zone or the new one.
fn replace(link: &Path, zone: &Path) -> io::Result<()> {
    let new = link.with_extension("new");
    remove(&new)?;
    symlink(zone, &new)?;
    std::fs::rename(&new, link)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones() {
        let dir = std::env::temp_dir().join(format!("inn-zones-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("Etc")).unwrap();
        std::fs::write(dir.join("Etc/GMT+1"), "TZif").unwrap();
        let found = zone(&dir, "Etc/GMT+1").unwrap();
        for name in ["", "/etc/passwd", "../x", "Etc/../Etc/GMT+1", "a b", "a\0"] {
            let refused = zone(&dir, name).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{name}");
        }
        for name in ["Etc", "Etc/GMT+2"] {
            assert_eq!(zone(&dir, name).unwrap_err().code(), tonic::Code::NotFound);
        }
        let link = dir.join("localtime");
        replace(&link, Path::new("/elsewhere")).unwrap();
        replace(&link, &found).unwrap();
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "TZif");
        write(&link, b"TZif2").unwrap();
        assert!(!link.is_symlink());
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "TZif2");
        assert!(write(&link, b"#!/bin/sh").is_err());
        // What the link led to is as it was.
        assert_eq!(std::fs::read_to_string(&found).unwrap(), "TZif");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
