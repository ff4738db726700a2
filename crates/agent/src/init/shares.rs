// SPDX-License-Identifier: Apache-2.0
//! Folders of the host: one mount of all that the host serves, and from there
//! one bind mount for each folder at its place.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;

use nix::mount::{MsFlags, mount};

use super::cmdline::{Shares, Transport};

/// Where everything that the host serves is mounted, each folder under its key.
/// Only root gets there; others use the places.
pub const TREE: &str = "/run/innkeeper/shares";

const NONE: Option<&str> = None;

/// Mounts every share at its place.
pub fn mount_all(shares: &Shares) -> io::Result<()> {
    mount_tree(&shares.transport)?;
    for (key, path) in &shares.places {
        bind(key, path)?;
    }
    Ok(())
}

fn mount_tree(transport: &Transport) -> io::Result<()> {
    make_folder(TREE)?;
    let Transport::Virtiofs(tag) = transport;
    // A device file of the host in a share is none of the guest's.
    mount(
        Some(tag.as_str()),
        TREE,
        Some("virtiofs"),
        MsFlags::MS_NODEV,
        NONE,
    )
    .map_err(|errno| failed(&format!("mount {tag} (virtiofs)"), errno))
}

fn bind(key: &str, path: &str) -> io::Result<()> {
    make_folder(path).map_err(|error| io::Error::other(format!("make {path}: {error}")))?;
    // With what the host has mounted below it.
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    let source = format!("{TREE}/{key}");
    mount(Some(source.as_str()), path, NONE, flags, NONE)
        .map_err(|errno| failed(&format!("mount the share at {path}"), errno))
}

fn make_folder(path: &str) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
}

fn failed(what: &str, errno: nix::Error) -> io::Error {
    io::Error::other(format!("{what}: {}", errno.desc()))
}
