// SPDX-License-Identifier: Apache-2.0
//! Starts a watcher, and puts this process under its watch.
//!
//! The watcher is nobody's child by the time the program runs, so that a program that
//! waits for its children finds its own alone.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use inn_inet::environment;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use super::calls::Rules;
use super::filter;
use super::watcher::Watcher;

/// Watches this process, and what it becomes, from now on.
pub fn watch_me() -> io::Result<()> {
    let (mut ours, theirs) = UnixStream::pair()?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(ours);
            become_watcher(theirs)
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            waitpid(child, None)?;
        }
    }
    let mut pid = [0; 4];
    ours.read_exact(&mut pid)?;
    let pid = u64::from(u32::from_ne_bytes(pid));
    // Where only ancestors may look into a process (Yama). Elsewhere it fails.
    // SAFETY: takes numbers alone.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, pid, 0, 0, 0) };
    if let Some(questions) = filter::install()? {
        let fds = [questions.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&fds)];
        let data = [IoSlice::new(b"q")];
        sendmsg::<()>(ours.as_raw_fd(), &data, &message, MsgFlags::empty(), None)?;
    }
    Ok(())
}

/// Never returns.
fn become_watcher(to: UnixStream) -> ! {
    let _ = setsid();
    // SAFETY: this process has one thread.
    if let Ok(ForkResult::Child) = unsafe { fork() } {
        let _ = watch(to);
    }
    // SAFETY: nothing of the parent's is to be cleaned up twice.
    unsafe { libc::_exit(0) }
}

fn watch(to: UnixStream) -> io::Result<()> {
    let mut to = keep_only(to)?;
    let rules = rules();
    to.write_all(&std::process::id().to_ne_bytes())?;
    if let Some(questions) = receive(&to)? {
        drop(to);
        Watcher::new(questions, rules).run();
    }
    Ok(())
}

/// Lets go of all that the program's parent may wait for the end of.
fn keep_only(stream: UnixStream) -> io::Result<UnixStream> {
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    drop(null);
    std::env::set_current_dir("/")?;
    let kept: RawFd = 3;
    let stream = OwnedFd::from(stream);
    if stream.as_raw_fd() != kept {
        // SAFETY: numbers alone; nothing of this process owns the number 3 but what is
        // given up here.
        let done = unsafe { libc::dup2(stream.as_raw_fd(), kept) };
        nix::errno::Errno::result(done)?;
    }
    // Closed below with the rest.
    std::mem::forget(stream);
    // SAFETY: numbers alone; no value of this process owns one of these descriptors.
    unsafe { libc::close_range(4, libc::c_uint::MAX, 0) };
    // SAFETY: made above, and nobody else's.
    Ok(unsafe { UnixStream::from_raw_fd(kept) })
}

fn rules() -> Rules {
    let entries: Vec<Vec<u8>> = std::env::vars_os()
        .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat())
        .collect();
    // Being asked to is what the variable of the library says.
    let entries = entries.iter().map(Vec::as_slice).chain([&b"INN_WRAP="[..]]);
    Rules {
        settings: environment::settings(entries).unwrap_or_default(),
        own: inn_inet::sys::own_cid(),
    }
}

/// The descriptor that comes over this stream; `None` at its end.
fn receive(from: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let mut room = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(from.as_raw_fd(), &mut data, Some(&mut room), flags)?;
    for control in message.cmsgs()? {
        let ControlMessageOwned::ScmRights(fds) = control else {
            continue;
        };
        // SAFETY: the kernel has just made these descriptors for us.
        let mut fds = fds
            .into_iter()
            .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        return Ok(fds.next());
    }
    Ok(None)
}
