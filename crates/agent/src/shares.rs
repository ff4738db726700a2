// SPDX-License-Identifier: Apache-2.0
//! Folders of the host: one mount of all that the host serves, and from there
//! one bind mount for each folder at its place.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};

use crate::holders::{self, Holder};
use crate::init;

/// Where everything that the host serves is mounted, each folder under its key.
/// Only root gets there; others use the places.
pub const TREE: &str = "/run/innkeeper/shares";

/// Largest 9P message: as large as the server takes.
const NINEP_MESSAGE: u32 = 512 << 10;

const NONE: Option<&str> = None;

/// Programs that are killed are gone after this; one in an endless call stays.
const KILL_TRIES: u32 = 100;
const KILL_PAUSE: Duration = Duration::from_millis(20);

/// Folders of the host, and how they come here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares {
    /// How they come.
    pub transport: Transport,
    /// In order.
    pub places: Vec<Place>,
}

/// A folder below the tree, and where it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name in the tree, which the host made.
    pub key: String,
    /// Absolute.
    pub path: String,
}

/// How shares come from the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// `virtiofs:TAG`
    Virtiofs(String),
    /// `9p:PORT,CACHE`: a server behind a vsock port of the host.
    Ninep(u32, String),
}

impl Transport {
    /// Reads `KIND:WHAT`.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("virtiofs", tag) if !tag.is_empty() => Some(Self::Virtiofs(tag.to_owned())),
            ("9p", where_to) => {
                let (port, cache) = where_to.split_once(',').unwrap_or((where_to, "none"));
                let is_word = cache.bytes().all(|byte| byte.is_ascii_lowercase());
                let port = port.parse().ok().filter(|_| is_word)?;
                Some(Self::Ninep(port, cache.to_owned()))
            }
            _ => None,
        }
    }
}

impl Place {
    /// A place, if both parts can be one.
    pub fn new(key: &str, path: &str) -> Option<Self> {
        let is_name = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_name && path.starts_with('/')).then(|| Self {
            key: key.to_owned(),
            path: path.to_owned(),
        })
    }

    fn source(&self) -> String {
        format!("{TREE}/{}", self.key)
    }
}

/// Mounts the tree, where it is not mounted yet, and every share at its place.
pub fn attach(shares: &Shares) -> io::Result<()> {
    if !is_mounted() {
        mount_tree(&shares.transport)?;
    }
    shares.places.iter().try_for_each(bind)
}

/// Mounts everything anew, after the host's server lost what it knew. What is
/// mounted stays as long as a program holds something of it, since the kernel
/// would only mount the same lost session again (virtiofs); those are in the error.
pub fn reattach(shares: &Shares) -> io::Result<()> {
    let mut paths: Vec<&str> = shares.places.iter().map(|place| &*place.path).collect();
    paths.push(TREE);
    let holding = holders::find(&paths);
    let is_kept = matches!(shares.transport, Transport::Virtiofs(_));
    if is_kept && !holding.is_empty() {
        let names: Vec<_> = holding.iter().map(Holder::to_string).collect();
        let names = names.join(", ");
        return Err(io::Error::other(format!(
            "programs hold on to what was lost: {names}"
        )));
    }
    // A place inside another one goes first.
    for place in shares.places.iter().rev() {
        detach_all(&place.path);
        detach_all(&place.source());
    }
    detach_all(TREE);
    attach(shares)?;
    // The lost session answers if it is still there, and knows nothing.
    fs::read_dir(TREE).map(drop).map_err(|error| {
        let by = "a share that was taken away by force is still in use";
        io::Error::other(format!("{error}: {by}"))
    })
}

/// Takes a share from its place, and lets the host's server know that nothing
/// of it is needed any more.
///
/// * `force`: also a busy one; who uses it goes on with it.
/// * `kill`: end who uses it first.
pub fn detach(place: &Place, force: bool, kill: bool) -> nix::Result<()> {
    if kill {
        let used = |_: &_| !holders::kill(&[&place.path]);
        (0..KILL_TRIES)
            .take_while(used)
            .for_each(|_| std::thread::sleep(KILL_PAUSE));
    }
    let mut flags = MntFlags::UMOUNT_NOFOLLOW;
    flags.set(MntFlags::MNT_DETACH, force || kill);
    umount2(place.path.as_str(), flags)?;
    // The bind mount was of this one, which the kernel made by itself.
    detach_all(&place.source());
    // What the kernel remembers of files, the server has to hold open.
    let _ = fs::write("/proc/sys/vm/drop_caches", "2");
    Ok(())
}

/// Unmounts what is mounted here, however often.
fn detach_all(path: &str) {
    let flags = MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH;
    while umount2(path, flags).is_ok() {}
}

fn is_mounted() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The fifth field is the mount point.
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(TREE))
}

/// Mounts everything that the host serves, where no place of the guest is yet.
pub fn mount_tree(transport: &Transport) -> io::Result<()> {
    make_folder(TREE)?;
    let (what, drivers): (_, &[&str]) = match transport {
        Transport::Virtiofs(tag) => (format!("{tag} (virtiofs)"), &["virtiofs"]),
        Transport::Ninep(port, _) => (format!("port {port} (9p)"), &["9pnet_fd", "9p"]),
    };
    let mounted = match mount_once(transport) {
        // Without shares at the start, nobody loaded the driver.
        Err(Errno::ENODEV) => {
            drivers
                .iter()
                .for_each(|driver| init::modules::load_if_there(driver));
            mount_once(transport)
        }
        other => other,
    };
    mounted.map_err(|errno| failed(&format!("mount {what}"), errno))
}

fn mount_once(transport: &Transport) -> nix::Result<()> {
    // A device file of the host in a share is none of the guest's.
    let flags = MsFlags::MS_NODEV;
    match transport {
        Transport::Virtiofs(tag) => mount(Some(tag.as_str()), TREE, Some("virtiofs"), flags, NONE),
        Transport::Ninep(port, cache) => mount_port(*port, cache, flags),
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

fn bind(place: &Place) -> io::Result<()> {
    let path = place.path.as_str();
    if !Path::new(path).is_dir() {
        make_folder(path).map_err(|error| io::Error::other(format!("make {path}: {error}")))?;
    }
    // With what the host has mounted below it.
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(place.source().as_str()), path, NONE, flags, NONE)
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
