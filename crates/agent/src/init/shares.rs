// SPDX-License-Identifier: Apache-2.0
//! Folders of the host: one mount of all that the host serves, and from there
//! one bind mount for each folder at its place.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;

use nix::mount::{MsFlags, mount};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

use super::cmdline::{Shares, Transport};

/// Where everything that the host serves is mounted, each folder under its key.
/// Only root gets there; others use the places.
pub const TREE: &str = "/run/innkeeper/shares";

/// Largest 9P message: as large as the server takes.
const NINEP_MESSAGE: u32 = 512 << 10;

const NONE: Option<&str> = None;

/// Mounts every share at its place; the tree they come from is mounted.
pub fn mount_places(shares: &Shares) -> io::Result<()> {
    for (key, path) in &shares.places {
        bind(key, path)?;
    }
    Ok(())
}

/// Mounts everything that the host serves, where no place of the guest is yet.
pub fn mount_tree(transport: &Transport) -> io::Result<()> {
    make_folder(TREE)?;
    // A device file of the host in a share is none of the guest's.
    let flags = MsFlags::MS_NODEV;
    match transport {
        Transport::Virtiofs(tag) => mount(Some(tag.as_str()), TREE, Some("virtiofs"), flags, NONE)
            .map_err(|errno| failed(&format!("mount {tag} (virtiofs)"), errno)),
        Transport::Ninep(port, cache) => mount_port(*port, cache, flags)
            .map_err(|errno| failed(&format!("mount port {port} (9p)"), errno)),
    }
}

/// Each user of the guest attaches as himself, so that what he makes is his.
fn mount_port(port: u32, cache: &str, flags: MsFlags) -> nix::Result<()> {
    let kind = SockType::Stream;
    let socket = socket(AddressFamily::Vsock, kind, SockFlag::SOCK_CLOEXEC, None)?;
    let host = VsockAddr::new(libc::VMADDR_CID_HOST, port);
    connect(socket.as_raw_fd(), &host)?;
    let fd = socket.as_raw_fd();
    let options = format!(
        "trans=fd,rfdno={fd},wfdno={fd},version=9p2000.L,access=user,cache={cache},\
         msize={NINEP_MESSAGE}"
    );
    let options = Some(options.as_str());
    mount(Some("host"), TREE, Some("9p"), flags, options)
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
