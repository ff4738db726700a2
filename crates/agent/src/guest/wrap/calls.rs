// SPDX-License-Identifier: Apache-2.0
//! What the watcher does about one system call: the same as the preloaded library, from
//! outside.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use inn_inet::address::{self, Form, Meaning};
use inn_inet::options::{self, SOCKET};
use inn_inet::swap::{self, Again, Settings};
use inn_inet::sys::{self, Errno, Owned, Result, VsockAddress};

use super::callee::{Answer, Callee, Questions};

/// Largest option value that is written (`struct tcp_info`).
const VALUE_BYTES: usize = 256;
/// MSG_PEEK and MSG_DONTWAIT.
const PEEK: libc::c_int = libc::MSG_PEEK | libc::MSG_DONTWAIT;

/// What becomes of a call.
pub enum Outcome {
    /// It is answered now.
    Now(Answer),
    /// The answer went along with a descriptor.
    Sent,
    /// It waits until its connect is decided; and at most so many ms, or for ever below 0.
    Connecting(OwnedFd, i32),
    /// It waits for a connection; and at most so long.
    Accepting(OwnedFd, Form, i32),
}

/// What decides about all calls.
pub struct Rules {
    /// From the program's environment.
    pub settings: Settings,
    /// This guest's CID.
    pub own: Option<u32>,
}

/// An error of ours: the kernel answers as it would have without us.
impl From<io::Error> for Outcome {
    fn from(_: io::Error) -> Self {
        Self::Now(Answer::Continue)
    }
}

impl From<Result<()>> for Answer {
    fn from(result: Result<()>) -> Self {
        match result {
            Ok(()) => Self::Value(0),
            Err(errno) => Self::Error(errno.0),
        }
    }
}

/// Finds out what a call comes to.
pub fn decide(questions: &Questions, callee: &Callee, rules: &Rules) -> Outcome {
    decided(questions, callee, rules).unwrap_or_else(Outcome::from)
}

fn decided(questions: &Questions, callee: &Callee, rules: &Rules) -> io::Result<Outcome> {
    let place = callee.number(0);
    let socket = callee.socket(place)?;
    let fd = socket.as_raw_fd();
    match callee.number {
        libc::SYS_connect => return connect(questions, callee, rules, &socket),
        libc::SYS_bind => {
            let to = callee.address(1, 2)?;
            return match swap::bind(fd, &to, rules.settings) {
                Some(Ok(new)) => replaced(questions, callee, &new),
                Some(Err(errno)) => now(Answer::Error(errno.0)),
                None => now(Answer::Continue),
            };
        }
        libc::SYS_listen => {
            return match swap::listen(fd, callee.number(1), rules.settings) {
                Some(new) => replaced(questions, callee, &new),
                None => now(Answer::Continue),
            };
        }
        _ => {}
    }
    let Some(form) = swap::form_of(fd) else {
        return now(Answer::Continue);
    };
    match callee.number {
        libc::SYS_accept | libc::SYS_accept4 => {
            let timeout = swap::accept_timeout_ms(fd);
            Ok(Outcome::Accepting(socket, form, timeout))
        }
        libc::SYS_getsockname => tell_name(callee, form, rules, sys::own_address(fd)),
        libc::SYS_getpeername => tell_name(callee, form, rules, sys::peer_address(fd)),
        libc::SYS_setsockopt => {
            let ignored = options::may_be_ignored(callee.number(1), callee.number(2));
            now(if ignored {
                Answer::Value(0)
            } else {
                Answer::Continue
            })
        }
        libc::SYS_getsockopt => tell_option(callee, form, fd),
        libc::SYS_ioctl => tell_waiting_bytes(callee, fd),
        _ => now(Answer::Continue),
    }
}

fn now(answer: Answer) -> io::Result<Outcome> {
    Ok(Outcome::Now(answer))
}

fn replaced(questions: &Questions, callee: &Callee, new: &Owned) -> io::Result<Outcome> {
    questions.replace(callee, callee.number(0), new.get())?;
    now(Answer::Value(0))
}

fn connect(
    questions: &Questions,
    callee: &Callee,
    rules: &Rules,
    socket: &OwnedFd,
) -> io::Result<Outcome> {
    let fd = socket.as_raw_fd();
    let to = callee.address(1, 2)?;
    let Some(Meaning::Guest { cid, port, form }) = address::meaning(&to, rules.settings.argo)
    else {
        return now(Answer::Continue);
    };
    let to = VsockAddress::remote(cid, port.into());
    if swap::wants_form(fd, form) {
        return connect_new(questions, callee, rules, fd, form, &to);
    }
    if swap::form_of(fd).is_none() {
        return now(Answer::Continue);
    }
    match swap::connect_again(fd, &to) {
        Again::Over(result) => now(result.into()),
        Again::UnderWay(errno) if swap::is_nonblocking(fd) => now(Answer::Error(errno.0)),
        Again::UnderWay(_) => {
            let timeout = swap::connect_timeout_ms(fd);
            Ok(Outcome::Connecting(socket.try_clone()?, timeout))
        }
        Again::Anew => connect_new(questions, callee, rules, fd, form, &to),
    }
}

/// The program gets its socket while the connect is under way, so that a signal that
/// ends its call leaves it what TCP would.
fn connect_new(
    questions: &Questions,
    callee: &Callee,
    rules: &Rules,
    fd: i32,
    form: Form,
    to: &VsockAddress,
) -> io::Result<Outcome> {
    let begun = match swap::begin_connect(fd, form, to, rules.own, rules.settings) {
        Ok(begun) => begun,
        Err(errno) => return now(Answer::Error(errno.0)),
    };
    let waits = !swap::is_nonblocking(fd);
    let timeout = swap::connect_timeout_ms(fd);
    let new = begun.socket;
    if swap::copy_flags(fd, new.get()).is_err() {
        return now(Answer::Continue);
    }
    questions.replace(callee, callee.number(0), new.get())?;
    if begun.connected {
        return now(Answer::Value(0));
    }
    if !waits {
        return now(Answer::Error(Errno::EINPROGRESS.0));
    }
    Ok(Outcome::Connecting(owned(new), timeout))
}

/// The same descriptor, as the standard library's.
fn owned(socket: Owned) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: `into_raw` gives up the only owner.
    unsafe { OwnedFd::from_raw_fd(socket.into_raw()) }
}

/// Takes one connection for a callee that waits for one; `None` where there is none yet.
pub fn accept(
    questions: &Questions,
    callee: &Callee,
    rules: &Rules,
    listener: &OwnedFd,
    form: Form,
) -> Option<Outcome> {
    let flags = match callee.number {
        libc::SYS_accept4 => callee.number(3),
        _ => 0,
    };
    let fd = listener.as_raw_fd();
    loop {
        match sys::poll(fd, sys::POLL_IN, 0) {
            Ok(true) => {}
            Ok(false) if swap::is_nonblocking(fd) => {
                return Some(Outcome::Now(Answer::Error(Errno::EAGAIN.0)));
            }
            _ => return None,
        }
        let (new, peer) = match sys::accept(fd, flags) {
            Ok((new, peer)) => (new, peer.vsock().unwrap_or_default()),
            Err(errno) => return Some(Outcome::Now(Answer::Error(errno.0))),
        };
        if !swap::may_enter(&peer, rules.settings) {
            continue;
        }
        let _ = swap::mark(new.get(), form);
        let name = swap::name(form, &peer, rules.own);
        let closes = flags & swap::CLOEXEC != 0;
        let done = callee
            .write_address(1, 2, &name)
            .and_then(|()| questions.answer_socket(callee, new.get(), closes));
        return Some(match done {
            Ok(()) => Outcome::Sent,
            // Whoever asked is gone, or gave a bad address: the connection ends.
            Err(_) => Outcome::Now(Answer::Error(libc::EFAULT)),
        });
    }
}

fn tell_name(
    callee: &Callee,
    form: Form,
    rules: &Rules,
    at: Result<sys::AnyAddress>,
) -> io::Result<Outcome> {
    let at = match at {
        Ok(at) => at.vsock().unwrap_or_default(),
        Err(errno) => return now(Answer::Error(errno.0)),
    };
    let name = swap::name(form, &at, rules.own);
    now(match callee.write_address(1, 2, &name) {
        Ok(()) => Answer::Value(0),
        Err(_) => Answer::Error(libc::EFAULT),
    })
}

fn tell_option(callee: &Callee, form: Form, fd: i32) -> io::Result<Outcome> {
    let (level, name) = (callee.number(1), callee.number(2));
    debug_assert!(level != SOCKET || options::is_answered(level, name));
    let room = callee.room(4)?;
    let Some(value) = swap::option(fd, form, level, name) else {
        return now(Answer::Continue);
    };
    let mut bytes = [0; VALUE_BYTES];
    let place = bytes.get_mut(..room.min(VALUE_BYTES)).unwrap_or_default();
    let length = value.write(place);
    let value = bytes.get(..length).unwrap_or_default();
    let length = (length as u32).to_ne_bytes();
    let written = callee
        .write_argument(3, value)
        .and_then(|()| callee.write_argument(4, &length));
    now(match written {
        Ok(()) => Answer::Value(0),
        Err(_) => Answer::Error(libc::EFAULT),
    })
}

/// FIONREAD, which vsock lacks before Linux 6.17: as much as fits here.
fn tell_waiting_bytes(callee: &Callee, fd: i32) -> io::Result<Outcome> {
    let mut room = vec![0_u8; 64 << 10];
    // SAFETY: the kernel writes to `room` alone, no more than its length.
    let count = unsafe { libc::recv(fd, room.as_mut_ptr().cast(), room.len(), PEEK) };
    let count = i32::try_from(count.max(0)).unwrap_or(0);
    callee.write_argument(2, &count.to_ne_bytes())?;
    now(Answer::Value(0))
}
