// SPDX-License-Identifier: Apache-2.0
//! Connects a program's descriptor to a guest.

use core::sync::atomic::{AtomicU32, Ordering};

use inn_inet::address::Form;
use inn_inet::swap::{self, Again, CLOEXEC, Settings};
use inn_inet::sys::{self, Errno, Owned, Result, VsockAddress};

const GETFD: i32 = 1;
const FD_CLOEXEC: i32 = 1;

/// This guest's CID, or 0 until somebody asked.
static OWN_CID: AtomicU32 = AtomicU32::new(0);

/// This guest's CID.
pub fn own_cid() -> Option<u32> {
    match OWN_CID.load(Ordering::Relaxed) {
        0 => {
            let cid = sys::own_cid()?;
            OWN_CID.store(cid, Ordering::Relaxed);
            Some(cid)
        }
        cid => Some(cid),
    }
}

/// Puts a new socket under the program's number, which closes on exec as before.
pub fn put_in_place(new: Owned, fd: i32) -> Result<()> {
    let closes = sys::fcntl(fd, GETFD, 0)? & FD_CLOEXEC != 0;
    sys::dup3(new.get(), fd, if closes { CLOEXEC } else { 0 })
}

/// Connects a socket that was a TCP socket until now.
pub fn connect_new(fd: i32, form: Form, to: &VsockAddress, settings: Settings) -> Result<()> {
    let begun = swap::begin_connect(fd, form, to, own_cid(), settings)?;
    let outcome = if begun.connected {
        Ok(())
    } else if swap::is_nonblocking(fd) {
        Err(Errno::EINPROGRESS)
    } else {
        wait(begun.socket.get(), swap::connect_timeout_ms(fd))
    };
    match outcome {
        // As with TCP, an interrupted connect goes on, and one that took too long.
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => {
            swap::copy_flags(fd, begun.socket.get())?;
            put_in_place(begun.socket, fd)?;
            outcome
        }
        Err(_) => outcome,
    }
}

/// Connects a socket that is a vsock socket already.
pub fn connect_again(fd: i32, form: Form, to: &VsockAddress, settings: Settings) -> Result<()> {
    match swap::connect_again(fd, to) {
        Again::Over(result) => result,
        Again::UnderWay(otherwise) => wait_as_asked(fd, otherwise),
        Again::Anew => connect_new(fd, form, to, settings),
    }
}

fn wait_as_asked(fd: i32, otherwise: Errno) -> Result<()> {
    if swap::is_nonblocking(fd) {
        return Err(otherwise);
    }
    wait(fd, swap::connect_timeout_ms(fd))
}

fn wait(fd: i32, timeout_ms: i32) -> Result<()> {
    if !sys::poll(fd, sys::POLL_OUT, timeout_ms)? {
        return Err(Errno::EINPROGRESS);
    }
    swap::take_error(fd)
}
