// SPDX-License-Identifier: Apache-2.0
//! A root whose server is an ordinary user of the host, made fit for a layer.
//!
//! An overlay opens the files of its lower layer with `O_NOATIME`, which only
//! their owner may, or whoever has `CAP_FOWNER`. The guest's root has it; the
//! server on the host has not, so each file that is not the user's own could not
//! be opened at all. The kernel leaves the flag away where whoever mounted the
//! overlay lacks that capability. So one more overlay, which only reads, is
//! mounted without it and becomes the lower layer of the one that is written to.

use std::io;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

/// An overlay that only reads wants two layers (overlayfs.rst); this one is empty.
const EMPTY: &str = "/run/innkeeper/empty";

/// Numbers of linux/capability.h.
const CAP_FOWNER: u32 = 3;
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Mounts `lower` at `target` by an overlay that opens files as anybody does.
pub fn mount_plain(lower: &str, target: &str) -> io::Result<()> {
    super::root::make_folder(EMPTY)?;
    let mine = capabilities()?;
    let mut less = mine;
    less[0].effective &= !(1 << CAP_FOWNER);
    set_capabilities(&less)?;
    let options = format!("lowerdir={lower}:{EMPTY}");
    let kind = Some("overlay");
    let mounted = mount(
        kind,
        target,
        kind,
        MsFlags::MS_RDONLY,
        Some(options.as_str()),
    );
    set_capabilities(&mine)?;
    mounted.map_err(io::Error::from)
}

fn capabilities() -> io::Result<[Sets; 2]> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut sets = [Sets::default(); 2];
    // SAFETY: capget(2) reads the header and fills two sets in its third version.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    Errno::result(result)?;
    Ok(sets)
}

fn set_capabilities(sets: &[Sets; 2]) -> io::Result<()> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    // SAFETY: capset(2) reads the header and two sets in its third version.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_and_set() {
        let mine = capabilities().unwrap();
        set_capabilities(&mine).unwrap();
        assert_eq!(capabilities().unwrap()[0].effective, mine[0].effective);
    }
}
