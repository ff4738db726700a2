// SPDX-License-Identifier: Apache-2.0
//! Shared objects for programs of the guest. The agent brings them along, because it is
//! the one file of ours that every guest has.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where they are in the guest.
const FOLDER: &str = "/run/innkeeper/lib";

macro_rules! libraries {
    ($($name:literal),*) => {
        &[$(($name, include_bytes!(concat!(env!("OUT_DIR"), "/", $name)))),*]
    };
}

/// Name and content; build.rs has the same names. Empty ones were not built.
const LIBRARIES: &[(&str, &[u8])] = libraries!["libinn_preload.so", "libinn_rings.so"];

/// The client of rings for Python, which is one file on hosts too.
const PYTHON: (&str, &[u8]) = (
    "python/innkeeper_rings.py",
    include_bytes!("../../../../python/innkeeper/rings.py"),
);

/// Writes them where programs find them.
pub fn install() -> io::Result<()> {
    let (name, content) = PYTHON;
    let place = path(name);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(place.parent().unwrap_or(Path::new(FOLDER)))?;
    fs::write(&place, content)?;
    fs::set_permissions(&place, fs::Permissions::from_mode(0o644))?;
    for (name, content) in LIBRARIES.iter().filter(|(_, content)| !content.is_empty()) {
        let place = path(name);
        fs::write(&place, content)?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Where a library is.
pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}
