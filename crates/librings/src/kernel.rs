// SPDX-License-Identifier: Apache-2.0
//! The system calls that a client needs, without libc. x86-64 Linux.

use core::arch::asm;

/// A failed system call, or what the board refused: the number of `errno.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error(pub i32);

impl Error {
    /// Try again later: no room in a ring, nothing to read.
    pub const AGAIN: Self = Self(11);
    /// There is no memory.
    pub const NOMEM: Self = Self(12);
    /// An argument that makes no sense.
    pub const INVAL: Self = Self(22);
    /// What came from the board is none of its frames.
    pub const PROTO: Self = Self(71);
    /// The message is too long.
    pub const MSGSIZE: Self = Self(90);
    /// The board is gone.
    pub const CONNRESET: Self = Self(104);
    #[cfg(feature = "c-abi")]
    pub(crate) const PERM: Self = Self(1);
    pub(crate) const INTR: Self = Self(4);
    #[cfg(feature = "c-abi")]
    pub(crate) const BADF: Self = Self(9);
    #[cfg(feature = "c-abi")]
    pub(crate) const MFILE: Self = Self(24);
}

mod number {
    pub const READ: usize = 0;
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const POLL: usize = 7;
    pub const MMAP: usize = 9;
    pub const MUNMAP: usize = 11;
    pub const SOCKET: usize = 41;
    pub const CONNECT: usize = 42;
    pub const SENDTO: usize = 44;
    pub const RECVFROM: usize = 45;
    pub const SETSOCKOPT: usize = 54;
    pub const EPOLL_CTL: usize = 233;
    pub const EVENTFD2: usize = 290;
    pub const EPOLL_CREATE1: usize = 291;
}

/// Something to read, or room to write, as in `poll(2)`.
pub const POLLIN: i16 = 1;
/// Room to write.
pub const POLLOUT: i16 = 4;
const AF_UNIX: usize = 1;
const AF_VSOCK: usize = 40;
const SOCK_STREAM_CLOEXEC: usize = 1 | 0o2_000_000;
const MSG_DONTWAIT: usize = 0x40;
const MSG_NOSIGNAL: usize = 0x4000;
const CLOEXEC_NONBLOCK: usize = 0o2_000_000 | 0o4_000;

/// # Safety
/// As the call with this number says of its arguments.
unsafe fn call(number: usize, arguments: [usize; 6]) -> Result<usize, Error> {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the kernel's calling convention; rcx and r11 are what it may change.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    if result < 0 {
        Err(Error(i32::try_from(-result).unwrap_or(Error::INVAL.0)))
    } else {
        Ok(result.unsigned_abs())
    }
}

/// Ends the program at once.
#[cfg(all(feature = "freestanding", not(test)))]
pub(crate) fn abort() -> ! {
    loop {
        // SAFETY: an illegal instruction ends the process, and touches nothing.
        unsafe { asm!("ud2", options(nomem, nostack)) };
    }
}

/// An open descriptor.
#[derive(Debug)]
pub struct Descriptor(i32);

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody uses it any more.
        let _ = unsafe { call(number::CLOSE, [self.0 as usize, 0, 0, 0, 0, 0]) };
    }
}

impl Descriptor {
    fn new(number: usize) -> Self {
        Self(number as i32)
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> i32 {
        self.0
    }

    /// A stream to a port of a CID (`vsock(7)`).
    pub(crate) fn vsock(cid: u32, port: u32) -> Result<Self, Error> {
        // struct sockaddr_vm: family, reserved, port, CID, flags and zeros.
        let mut address = [0_u8; 16];
        address[0] = AF_VSOCK as u8;
        address[4..8].copy_from_slice(&port.to_le_bytes());
        address[8..12].copy_from_slice(&cid.to_le_bytes());
        let stream = Self::socket(AF_VSOCK)?;
        // SO_VM_SOCKETS_CONNECT_TIMEOUT, 10 s: the kernel's 2 are too few on a busy host.
        let patience = [10_i64, 0];
        let (start, len) = (patience.as_ptr() as usize, size_of_val(&patience));
        let number = stream.0 as usize;
        // SAFETY: the kernel reads `len` bytes from `start`.
        unsafe { call(number::SETSOCKOPT, [number, AF_VSOCK, 6, start, len, 0])? };
        stream.connected(&address)
    }

    /// A stream to a Unix socket.
    pub(crate) fn unix(path: &[u8]) -> Result<Self, Error> {
        let mut address = [0_u8; 110];
        address[0] = AF_UNIX as u8;
        let room = address.get_mut(2..2 + path.len()).ok_or(Error::INVAL)?;
        room.copy_from_slice(path);
        // The path ends with a zero.
        let whole = address.get(..path.len() + 3).ok_or(Error::INVAL)?;
        Self::socket(AF_UNIX)?.connected(whole)
    }

    fn socket(family: usize) -> Result<Self, Error> {
        // SAFETY: numbers only.
        let made = unsafe { call(number::SOCKET, [family, SOCK_STREAM_CLOEXEC, 0, 0, 0, 0])? };
        Ok(Self::new(made))
    }

    fn connected(self, address: &[u8]) -> Result<Self, Error> {
        let (start, len) = (address.as_ptr() as usize, address.len());
        // SAFETY: the kernel reads `len` bytes from `start`.
        unsafe { call(number::CONNECT, [self.0 as usize, start, len, 0, 0, 0])? };
        Ok(self)
    }

    /// Sends what the socket takes now.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<usize, Error> {
        let (start, len) = (bytes.as_ptr() as usize, bytes.len());
        let flags = MSG_DONTWAIT | MSG_NOSIGNAL;
        // SAFETY: the kernel reads `len` bytes from `start`.
        unsafe { call(number::SENDTO, [self.0 as usize, start, len, flags, 0, 0]) }
    }

    /// Receives what is there now; 0: the other side is gone.
    pub(crate) fn receive(&self, room: &mut [u8]) -> Result<usize, Error> {
        let (start, len) = (room.as_mut_ptr() as usize, room.len());
        // SAFETY: the kernel writes at most `len` bytes to `start`.
        unsafe {
            call(
                number::RECVFROM,
                [self.0 as usize, start, len, MSG_DONTWAIT, 0, 0],
            )
        }
    }

    /// Waits until the stream is ready; what it is ready for, 0 if it was not in time.
    pub(crate) fn poll(&self, events: i16, timeout_ms: i32) -> Result<i16, Error> {
        // struct pollfd: descriptor, events, what happened.
        let mut entry = (self.0, [events, 0_i16]);
        let start = core::ptr::from_mut(&mut entry) as usize;
        // SAFETY: one entry of the layout that poll has; the timeout is passed as an int.
        let call = unsafe { call(number::POLL, [start, 1, timeout_ms as usize, 0, 0, 0]) };
        call.map(|_| entry.1[1])
    }

    /// A counter that is readable while it is not 0.
    pub(crate) fn bell() -> Result<Self, Error> {
        // SAFETY: numbers only.
        let made = unsafe { call(number::EVENTFD2, [0, CLOEXEC_NONBLOCK, 0, 0, 0, 0])? };
        Ok(Self::new(made))
    }

    /// Makes the counter 1, or 0.
    pub(crate) fn ring(&self, on: bool) {
        let (mut old, one) = (0_u64, 1_u64);
        let start = core::ptr::from_mut(&mut old) as usize;
        // SAFETY: an eventfd reads 8 bytes.
        let _ = unsafe { call(number::READ, [self.0 as usize, start, 8, 0, 0, 0]) };
        if on {
            let start = core::ptr::from_ref(&one) as usize;
            // SAFETY: and writes 8.
            let _ = unsafe { call(number::WRITE, [self.0 as usize, start, 8, 0, 0, 0]) };
        }
    }

    /// A descriptor that is readable while one of these is.
    pub(crate) fn watching(others: [&Self; 2]) -> Result<Self, Error> {
        const ADD: usize = 1;
        #[repr(C, packed)]
        struct Event {
            events: u32,
            data: u64,
        }
        // SAFETY: numbers only.
        let made = unsafe { call(number::EPOLL_CREATE1, [0o2_000_000, 0, 0, 0, 0, 0])? };
        let watch = Self::new(made);
        for other in others {
            let event = Event { events: 1, data: 0 };
            let start = core::ptr::from_ref(&event) as usize;
            // SAFETY: the kernel reads one event of its layout, which is packed here.
            unsafe {
                call(
                    number::EPOLL_CTL,
                    [made, ADD, other.0 as usize, start, 0, 0],
                )?
            };
        }
        Ok(watch)
    }
}

/// Zeroed memory of its own; pages that nobody touches cost nothing.
#[derive(Debug)]
pub struct Area {
    start: *mut u8,
    len: usize,
}

// SAFETY: it owns its memory, as a Box does.
unsafe impl Send for Area {}

impl Area {
    /// `len` bytes, all zero.
    ///
    /// # Errors
    /// There is no memory.
    pub fn new(len: usize) -> Result<Self, Error> {
        const READ_WRITE: usize = 3;
        const PRIVATE_ANONYMOUS: usize = 0x22;
        // SAFETY: a new mapping, which touches no other.
        let start = unsafe {
            call(
                number::MMAP,
                [0, len, READ_WRITE, PRIVATE_ANONYMOUS, usize::MAX, 0],
            )?
        };
        Ok(Self {
            start: start as *mut u8,
            len,
        })
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        // SAFETY: mapped, initialised by the kernel, ours alone.
        unsafe { core::slice::from_raw_parts(self.start, self.len) }
    }

    /// The bytes, to change.
    pub const fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`.
        unsafe { core::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: ours; no slice of it outlives it.
        let _ = unsafe { call(number::MUNMAP, [self.start as usize, self.len, 0, 0, 0, 0]) };
    }
}
