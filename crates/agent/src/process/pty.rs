// SPDX-License-Identifier: Apache-2.0
//! Pseudo-terminals.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Uid, fchown, tcgetpgrp};

nix::ioctl_write_ptr_bad!(set_window, libc::TIOCSWINSZ, libc::winsize);

/// Size of a window nobody measured.
const DEFAULT_SIZE: (i32, i32) = (24, 80);

/// Both sides of a new terminal.
pub struct Pty {
    /// Our side.
    pub master: OwnedFd,
    /// The process's side.
    pub terminal: OwnedFd,
}

/// Opens a terminal that `owner` may open again by its name.
pub fn open_pty(rows: i32, cols: i32, owner: Option<u32>) -> nix::Result<Pty> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let terminal = open(ptsname_r(&master)?.as_str(), flags, Mode::empty())?;
    if let Some(uid) = owner {
        fchown(&terminal, Some(Uid::from_raw(uid)), None)?;
    }
    let master = OwnedFd::from(master);
    let (rows, cols) = if rows > 0 && cols > 0 {
        (rows, cols)
    } else {
        DEFAULT_SIZE
    };
    resize(&master, rows, cols)?;
    Ok(Pty { master, terminal })
}

/// Sets the window's size, cut to what the kernel can hold. The kernel sends
/// SIGWINCH to the foreground process group.
pub fn resize(master: &impl AsFd, rows: i32, cols: i32) -> nix::Result<()> {
    let cut = |size: i32| u16::try_from(size.clamp(1, u16::MAX.into())).unwrap_or(u16::MAX);
    let size = libc::winsize {
        ws_row: cut(rows),
        ws_col: cut(cols),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize, which `size` is.
    unsafe { set_window(master.as_fd().as_raw_fd(), &raw const size) }.map(drop)
}

/// Signals whoever has the foreground of the terminal.
pub fn signal_foreground(master: &impl AsFd, signal: Signal) -> nix::Result<()> {
    // On the master this names the foreground group of the other side.
    let group = tcgetpgrp(master)?;
    if group.as_raw() <= 1 {
        // killpg(0) would be the agent's own group, killpg(1) everybody's.
        return Err(nix::errno::Errno::ESRCH);
    }
    killpg(group, signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    nix::ioctl_read_bad!(get_window, libc::TIOCGWINSZ, libc::winsize);

    #[test]
    fn sizes_are_clamped() {
        let pty = open_pty(0, -1, None).unwrap();
        let size = || {
            let mut size = libc::winsize {
                ws_row: 0,
                ws_col: 0,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            // SAFETY: TIOCGWINSZ writes one winsize.
            unsafe { get_window(pty.terminal.as_raw_fd(), &raw mut size) }.unwrap();
            (size.ws_row, size.ws_col)
        };
        assert_eq!(size(), (24, 80));
        resize(&pty.master, i32::MAX, i32::MIN).unwrap();
        assert_eq!(size(), (u16::MAX, 1));
    }

    #[test]
    fn nobody_in_the_foreground() {
        let pty = open_pty(10, 10, None).unwrap();
        assert!(signal_foreground(&pty.master, Signal::SIGINT).is_err());
    }
}
