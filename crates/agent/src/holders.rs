// SPDX-License-Identifier: Apache-2.0
//! Who uses a mount: what a busy one is refused with. Nothing here touches the
//! file system itself, which may be one that does not answer.

use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// More than this many are not of interest.
const MAX_HOLDERS: usize = 16;

/// A process that uses a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: i32,
    /// The kernel's short name of it.
    pub name: String,
    /// What of it is there: "cwd", "fd 3", "a mapping".
    pub what: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({}, {})", self.pid, self.name, self.what)
    }
}

/// The processes that are in, or have open, something at or below one of these paths.
pub fn find(paths: &[&str]) -> Vec<Holder> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if let Some(what) = held(&entry.path(), paths) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let name = name.trim_end().to_owned();
            found.push(Holder { pid, name, what });
            if found.len() == MAX_HOLDERS {
                break;
            }
        }
    }
    found
}

/// Kills them; true when there are none any more. PID 1, and with it the guest, stays.
pub fn kill(paths: &[&str]) -> bool {
    let found = find(paths);
    for holder in found.iter().filter(|holder| holder.pid > 1) {
        let _ = signal::kill(Pid::from_raw(holder.pid), Signal::SIGKILL);
    }
    found.is_empty()
}

fn held(process: &Path, paths: &[&str]) -> Option<String> {
    for name in ["cwd", "root", "exe"] {
        if leads_below(&process.join(name), paths) {
            return Some(name.to_owned());
        }
    }
    for entry in fs::read_dir(process.join("fd"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if leads_below(&entry.path(), paths) {
            return Some(format!("fd {}", entry.file_name().to_string_lossy()));
        }
    }
    let maps = fs::read(process.join("maps")).unwrap_or_default();
    maps.split(|byte| *byte == b'\n')
        .filter_map(|line| {
            line.iter()
                .position(|byte| *byte == b'/')
                .map(|at| &line[at..])
        })
        .any(|path| paths.iter().any(|below| is_below(path, below)))
        .then(|| "a mapping".to_owned())
}

fn leads_below(link: &Path, paths: &[&str]) -> bool {
    fs::read_link(link).is_ok_and(|target| {
        let target = target.as_os_str().as_bytes();
        paths.iter().any(|path| is_below(target, path))
    })
}

fn is_below(path: &[u8], folder: &str) -> bool {
    path.strip_prefix(folder.as_bytes())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_its_files_open() {
        let folder = std::env::temp_dir().join(format!("inn-holders-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.to_str().unwrap();
        let own = |found: &[Holder]| {
            let pid = i32::try_from(std::process::id()).unwrap();
            found.iter().any(|holder| holder.pid == pid)
        };
        assert!(!own(&find(&[path])));
        let file = fs::File::create(folder.join("file")).unwrap();
        assert!(own(&find(&["/none", path])));
        assert!(!own(&find(&[&path[..path.len() - 1]])));
        drop(file);
        fs::remove_dir_all(&folder).unwrap();
    }
}
