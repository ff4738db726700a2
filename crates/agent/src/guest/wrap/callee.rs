// SPDX-License-Identifier: Apache-2.0
//! A thread that waits for the answer to its system call: its descriptors and memory.
//!
//! It may have other threads, which may change both at any time; what is read here
//! decides about its own sockets alone.

use std::fs;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use inn_inet::address::Written;

// linux/seccomp.h, as _IOWR('!', n, ...) of the sizes below.
const NOTIF_RECV: libc::Ioctl = 0xc050_2100;
const NOTIF_SEND: libc::Ioctl = 0xc018_2101;
const NOTIF_ID_VALID: libc::Ioctl = 0x4008_2102;
const NOTIF_ADDFD: libc::Ioctl = 0x4018_2103;
const ADDFD_SETFD: u32 = 1;
const ADDFD_SEND: u32 = 2;
const CONTINUE: u32 = 1;

/// The longest `struct sockaddr` that is read.
const ADDRESS_BYTES: usize = 128;

/// The descriptor on which calls are asked about.
pub struct Questions(OwnedFd);

/// What a call comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The kernel does it, as if nobody had asked.
    Continue,
    /// It returns this.
    Value(i64),
    /// It fails with this errno.
    Error(i32),
}

/// One call.
pub struct Callee {
    /// The number of the question.
    pub id: u64,
    /// The thread.
    thread: libc::pid_t,
    /// Its process.
    pub process: OwnedFd,
    /// The system call.
    pub number: i64,
    /// Its arguments.
    pub args: [u64; 6],
}

fn last_error<T>(done: i64, value: T) -> io::Result<T> {
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}

impl Questions {
    /// Takes what the filter gave.
    pub const fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// To poll: readable with a question, hung up when nobody is left to ask.
    pub fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// The next question; an error where it was taken back.
    pub fn next(&self) -> io::Result<Callee> {
        // SAFETY: plain numbers, for which zero is right, and what the kernel wants.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes a seccomp_notif, which outlives the call.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_RECV, &raw mut asked) };
        last_error(done.into(), ())?;
        let thread = asked.pid as libc::pid_t;
        match open_process(thread) {
            Ok(process) => Ok(Callee {
                id: asked.id,
                thread,
                process,
                number: asked.data.nr.into(),
                args: asked.data.args,
            }),
            Err(error) => {
                // It is not ours to see, so it gets what it would have without us.
                self.answer(asked.id, Answer::Continue)?;
                Err(error)
            }
        }
    }

    /// Whether this question still waits for an answer.
    pub fn is_open(&self, id: u64) -> bool {
        // SAFETY: the kernel reads eight bytes, which outlive the call.
        unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_ID_VALID, &raw const id) == 0 }
    }

    /// Answers; an error where nobody waits for it any more.
    pub fn answer(&self, id: u64, answer: Answer) -> io::Result<()> {
        let (val, error, flags) = match answer {
            Answer::Continue => (0, 0, CONTINUE),
            Answer::Value(value) => (value, 0, 0),
            Answer::Error(errno) => (0, -errno, 0),
        };
        let response = libc::seccomp_notif_resp {
            id,
            val,
            error,
            flags,
        };
        // SAFETY: the kernel reads a seccomp_notif_resp, which outlives the call.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_SEND, &raw const response) };
        last_error(done.into(), ())
    }

    fn add(&self, id: u64, flags: u32, socket: i32, place: u32, closes: bool) -> io::Result<()> {
        let added = libc::seccomp_notif_addfd {
            id,
            flags,
            srcfd: socket as u32,
            newfd: place,
            newfd_flags: if closes { libc::O_CLOEXEC as u32 } else { 0 },
        };
        // SAFETY: the kernel reads a seccomp_notif_addfd, which outlives the call.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), NOTIF_ADDFD, &raw const added) };
        last_error(done.into(), ())
    }

    /// Puts a socket under a number of the callee's.
    pub fn replace(&self, callee: &Callee, place: i32, socket: i32) -> io::Result<()> {
        let closes = callee.closes_on_exec(place);
        self.add(callee.id, ADDFD_SETFD, socket, place as u32, closes)
    }

    /// Answers with a socket under a free number of the callee's.
    pub fn answer_socket(&self, callee: &Callee, socket: i32, closes: bool) -> io::Result<()> {
        self.add(callee.id, ADDFD_SEND, socket, 0, closes)
    }
}

/// The process of a thread: pidfd_open(2) takes the first thread of it alone.
fn open_process(thread: libc::pid_t) -> io::Result<OwnedFd> {
    let status = fs::read_to_string(format!("/proc/{thread}/status"))?;
    let process: libc::pid_t = status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
        .ok_or(io::ErrorKind::NotFound)?;
    // SAFETY: takes numbers alone.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) };
    last_error(fd, ())?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

impl Callee {
    /// An argument that is an int.
    pub fn number(&self, index: usize) -> i32 {
        self.args.get(index).map_or(0, |word| *word as i32)
    }

    fn word(&self, index: usize) -> u64 {
        self.args.get(index).copied().unwrap_or_default()
    }

    /// The same socket as one of the callee's.
    pub fn socket(&self, fd: i32) -> io::Result<OwnedFd> {
        let process = self.process.as_raw_fd();
        // SAFETY: takes numbers alone.
        let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, fd, 0) };
        last_error(copy, ())?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
    }

    /// The address that two arguments, a pointer and a length, say.
    pub fn address(&self, pointer: usize, length: usize) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.word(length) as u32).unwrap_or(ADDRESS_BYTES);
        let mut bytes = vec![0; length.min(ADDRESS_BYTES)];
        let read = self.read(self.word(pointer), &mut bytes)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Writes an address, as much as there is room for, and its length, where the
    /// callee wants to know it.
    pub fn write_address(&self, pointer: usize, length: usize, name: &Written) -> io::Result<()> {
        if self.word(pointer) == 0 || self.word(length) == 0 {
            return Ok(());
        }
        let room = self.room(length)?;
        let bytes = name.as_bytes();
        let bytes = bytes.get(..room).unwrap_or(bytes);
        self.write(self.word(pointer), bytes)?;
        let whole = name.as_bytes().len() as u32;
        self.write(self.word(length), &whole.to_ne_bytes())
    }

    /// How many bytes an argument says that there is room for.
    pub fn room(&self, length: usize) -> io::Result<usize> {
        let mut room = [0; size_of::<u32>()];
        if self.read(self.word(length), &mut room)? < room.len() {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        Ok(u32::from_ne_bytes(room) as usize)
    }

    /// Writes to where an argument points.
    pub fn write_argument(&self, pointer: usize, bytes: &[u8]) -> io::Result<()> {
        self.write(self.word(pointer), bytes)
    }

    fn read(&self, from: u64, place: &mut [u8]) -> io::Result<usize> {
        let (local, remote) = vectors(place.as_mut_ptr(), from, place.len());
        // SAFETY: the kernel writes to `place` alone, no more than its length.
        let count = unsafe {
            libc::process_vm_readv(self.thread, &raw const local, 1, &raw const remote, 1, 0)
        };
        last_error(count as i64, count.unsigned_abs())
    }

    fn write(&self, to: u64, bytes: &[u8]) -> io::Result<()> {
        let (local, remote) = vectors(bytes.as_ptr().cast_mut(), to, bytes.len());
        // SAFETY: the kernel reads `bytes` alone; what it writes is the callee's.
        let count = unsafe {
            libc::process_vm_writev(self.thread, &raw const local, 1, &raw const remote, 1, 0)
        };
        last_error(count as i64, ())
    }

    fn closes_on_exec(&self, fd: i32) -> bool {
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", self.thread));
        let flags = info.ok().and_then(|info| {
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
            u32::from_str_radix(flags.trim(), 8).ok()
        });
        flags.is_some_and(|flags| flags & libc::O_CLOEXEC as u32 != 0)
    }
}

fn vectors(local: *mut u8, remote: u64, length: usize) -> (libc::iovec, libc::iovec) {
    let vector = |base: *mut libc::c_void| libc::iovec {
        iov_base: base,
        iov_len: length,
    };
    (vector(local.cast()), vector(remote as *mut libc::c_void))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_in_the_numbers() {
        let size = |number: libc::Ioctl| (number >> 16 & 0x3fff) as usize;
        assert_eq!(size(NOTIF_RECV), size_of::<libc::seccomp_notif>());
        assert_eq!(size(NOTIF_SEND), size_of::<libc::seccomp_notif_resp>());
        assert_eq!(size(NOTIF_ID_VALID), size_of::<u64>());
        assert_eq!(size(NOTIF_ADDFD), size_of::<libc::seccomp_notif_addfd>());
    }
}
