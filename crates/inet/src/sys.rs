// SPDX-License-Identifier: Apache-2.0
//! The system calls that this crate needs, without a C library: the preload library is
//! loaded into programs of any.

use core::arch::asm;
use core::mem::size_of;

/// An errno, above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// A system call's outcome.
pub type Result<T> = core::result::Result<T, Errno>;

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        impl Errno { $($(#[$doc])* pub const $name: Self = Self($value);)* }
    };
}

errnos! {
    /// Interrupted by a signal.
    EINTR = 4;
    /// Would have to wait.
    EAGAIN = 11;
    /// A wrong argument.
    EINVAL = 22;
    /// No such device.
    ENODEV = 19;
    /// No such option.
    ENOPROTOOPT = 92;
    /// Not for this kind.
    EOPNOTSUPP = 95;
    /// Not this family.
    EAFNOSUPPORT = 97;
    /// The port is taken.
    EADDRINUSE = 98;
    /// Not an address of this machine.
    EADDRNOTAVAIL = 99;
    /// No way there.
    ENETUNREACH = 101;
    /// The other end reset it.
    ECONNRESET = 104;
    /// It has an other end.
    EISCONN = 106;
    /// It has no other end.
    ENOTCONN = 107;
    /// Nobody came in time.
    ETIMEDOUT = 110;
    /// Nobody listens there.
    ECONNREFUSED = 111;
    /// It is on its way.
    EALREADY = 114;
    /// It goes on.
    EINPROGRESS = 115;
}

macro_rules! numbers {
    ($($name:ident = $value:literal;)*) => {
        $(#[allow(missing_docs)] pub const $name: usize = $value;)*
    };
}

// arch/x86/entry/syscalls/syscall_64.tbl
numbers! {
    SYS_READ = 0;
    SYS_CLOSE = 3;
    SYS_POLL = 7;
    SYS_IOCTL = 16;
    SYS_SOCKET = 41;
    SYS_CONNECT = 42;
    SYS_SENDTO = 44;
    SYS_RECVFROM = 45;
    SYS_SENDMSG = 46;
    SYS_BIND = 49;
    SYS_LISTEN = 50;
    SYS_GETSOCKNAME = 51;
    SYS_GETPEERNAME = 52;
    SYS_SETSOCKOPT = 54;
    SYS_GETSOCKOPT = 55;
    SYS_FCNTL = 72;
    SYS_OPENAT = 257;
    SYS_ACCEPT4 = 288;
    SYS_DUP3 = 292;
    SYS_GETRANDOM = 318;
}

/// Any system call.
///
/// # Safety
/// The arguments are what the kernel expects of that call; pointers are valid for what
/// it reads and writes there.
pub unsafe fn call(number: usize, args: [usize; 6]) -> Result<usize> {
    let result: isize;
    let [a, b, c, d, e, f] = args;
    // SAFETY: the registers of the x86-64 calling convention of system calls; the rest
    // is our caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    match result {
        -4095..=-1 => Err(Errno(i32::try_from(-result).unwrap_or(i32::MAX))),
        _ => Ok(result as usize),
    }
}

/// A descriptor's place in an argument list.
fn arg(number: i32) -> usize {
    number as usize
}

/// A new descriptor out of a call's result.
fn descriptor(value: usize) -> i32 {
    value as i32
}

/// A descriptor that is closed when this goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Owned(i32);

impl Owned {
    /// Takes a descriptor that nobody else owns.
    pub const fn new(fd: i32) -> Self {
        Self(fd)
    }

    /// Its number, for as long as this lives.
    pub const fn get(&self) -> i32 {
        self.0
    }

    /// Its number, and the duty to close it.
    pub const fn into_raw(self) -> i32 {
        let fd = self.0;
        core::mem::forget(self);
        fd
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: no pointer; nobody else owns the number.
        let _ = unsafe { call(SYS_CLOSE, [arg(self.0), 0, 0, 0, 0, 0]) };
    }
}

/// `struct sockaddr_vm` (linux/vm_sockets.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct VsockAddress {
    family: u16,
    reserved: u16,
    /// Its port.
    pub port: u32,
    /// Its CID.
    pub cid: u32,
    flags: u8,
    zero: [u8; 3],
}

/// Towards the host's device, where this guest has guests of its own, too.
const VMADDR_FLAG_TO_HOST: u8 = 1;
/// `VMADDR_PORT_ANY`.
pub const ANY_PORT: u32 = u32::MAX;

impl VsockAddress {
    /// An address to bind to.
    pub fn local(cid: u32, port: u32) -> Self {
        Self {
            family: crate::address::VSOCK,
            port,
            cid,
            ..Self::default()
        }
    }

    /// An address to connect to.
    pub fn remote(cid: u32, port: u32) -> Self {
        let flags = if cid > crate::address::HOST_CID {
            VMADDR_FLAG_TO_HOST
        } else {
            0
        };
        Self {
            flags,
            ..Self::local(cid, port)
        }
    }
}

/// socket(2).
pub fn socket(family: u16, kind: i32) -> Result<Owned> {
    // SAFETY: no pointers.
    unsafe { call(SYS_SOCKET, [family.into(), arg(kind), 0, 0, 0, 0]) }
        .map(|fd| Owned(descriptor(fd)))
}

fn with_address(number: usize, fd: i32, address: &VsockAddress) -> Result<()> {
    let pointer = core::ptr::from_ref(address) as usize;
    let length = size_of::<VsockAddress>();
    // SAFETY: the kernel reads `length` bytes of a value that outlives the call.
    unsafe { call(number, [arg(fd), pointer, length, 0, 0, 0]) }.map(drop)
}

/// bind(2).
pub fn bind(fd: i32, address: &VsockAddress) -> Result<()> {
    with_address(SYS_BIND, fd, address)
}

/// connect(2).
pub fn connect(fd: i32, address: &VsockAddress) -> Result<()> {
    with_address(SYS_CONNECT, fd, address)
}

/// listen(2).
pub fn listen(fd: i32, backlog: i32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call(SYS_LISTEN, [arg(fd), arg(backlog), 0, 0, 0, 0]) }.map(drop)
}

/// Room for the address of any socket (`struct sockaddr_storage`).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct AnyAddress {
    bytes: [u8; 128],
    length: u32,
}

impl Default for AnyAddress {
    fn default() -> Self {
        Self {
            bytes: [0; 128],
            length: 128,
        }
    }
}

impl AnyAddress {
    /// Where a system call finds the room and its size, as numbers.
    pub fn places(&mut self) -> (usize, usize) {
        (
            (&raw mut self.bytes) as usize,
            (&raw mut self.length) as usize,
        )
    }

    /// Its bytes, as many as the kernel wrote.
    pub fn as_bytes(&self) -> &[u8] {
        let length = usize::try_from(self.length).unwrap_or_default();
        self.bytes.get(..length).unwrap_or(&self.bytes)
    }

    /// The address, where it is one of vsock.
    pub fn vsock(&self) -> Option<VsockAddress> {
        let number = |at: usize| {
            let bytes = self.bytes.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(bytes))
        };
        let family = u16::from_ne_bytes([self.bytes[0], self.bytes[1]]);
        let whole = self.as_bytes().len() >= size_of::<VsockAddress>();
        if family != crate::address::VSOCK || !whole {
            return None;
        }
        Some(VsockAddress::local(number(8)?, number(4)?))
    }
}

fn ask_address(number: usize, fd: i32, flags: i32) -> Result<(usize, AnyAddress)> {
    let mut address = AnyAddress::default();
    let (place, length) = address.places();
    // SAFETY: the kernel writes at most as many bytes as `length` says, to a value that
    // outlives the call.
    let result = unsafe { call(number, [arg(fd), place, length, arg(flags), 0, 0]) }?;
    Ok((result, address))
}

/// getsockname(2).
pub fn own_address(fd: i32) -> Result<AnyAddress> {
    ask_address(SYS_GETSOCKNAME, fd, 0).map(|(_, address)| address)
}

/// getpeername(2).
pub fn peer_address(fd: i32) -> Result<AnyAddress> {
    ask_address(SYS_GETPEERNAME, fd, 0).map(|(_, address)| address)
}

/// accept4(2).
pub fn accept(fd: i32, flags: i32) -> Result<(Owned, AnyAddress)> {
    ask_address(SYS_ACCEPT4, fd, flags).map(|(fd, address)| (Owned(descriptor(fd)), address))
}

/// setsockopt(2).
pub fn set_option(fd: i32, level: i32, name: i32, value: &[u8]) -> Result<()> {
    let place = value.as_ptr() as usize;
    let args = [arg(fd), arg(level), arg(name), place, value.len(), 0];
    // SAFETY: the kernel reads as many bytes as the slice has.
    unsafe { call(SYS_SETSOCKOPT, args) }.map(drop)
}

/// getsockopt(2); how many bytes the kernel wrote.
pub fn option(fd: i32, level: i32, name: i32, value: &mut [u8]) -> Result<usize> {
    let place = value.as_mut_ptr() as usize;
    let mut length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let length_place = (&raw mut length) as usize;
    let args = [arg(fd), arg(level), arg(name), place, length_place, 0];
    // SAFETY: the kernel writes at most as many bytes as the slice has, and the length.
    unsafe { call(SYS_GETSOCKOPT, args) }?;
    Ok(usize::try_from(length).unwrap_or_default())
}

/// An option that is an int.
pub fn number_option(fd: i32, level: i32, name: i32) -> Result<i32> {
    let mut value = [0; 4];
    option(fd, level, name, &mut value)?;
    Ok(i32::from_ne_bytes(value))
}

/// fcntl(2) with a number.
pub fn fcntl(fd: i32, command: i32, value: i32) -> Result<i32> {
    // SAFETY: commands of this crate take no pointers.
    let result = unsafe { call(SYS_FCNTL, [arg(fd), arg(command), arg(value), 0, 0, 0]) }?;
    Ok(descriptor(result))
}

/// dup3(2).
pub fn dup3(from: i32, to: i32, flags: i32) -> Result<()> {
    // SAFETY: no pointers.
    unsafe { call(SYS_DUP3, [arg(from), arg(to), arg(flags), 0, 0, 0]) }.map(drop)
}

/// POLLIN.
pub const POLL_IN: i16 = 1;
/// POLLOUT.
pub const POLL_OUT: i16 = 4;

/// poll(2) for one descriptor; whether it is ready. `timeout_ms` below 0: for ever.
pub fn poll(fd: i32, events: i16, timeout_ms: i32) -> Result<bool> {
    /// `struct pollfd`.
    #[repr(C)]
    struct PollFd {
        fd: i32,
        events: i16,
        revents: i16,
    }
    let mut one = PollFd {
        fd,
        events,
        revents: 0,
    };
    let place = (&raw mut one) as usize;
    // SAFETY: the kernel reads and writes one pollfd, which outlives the call.
    unsafe { call(SYS_POLL, [place, 1, arg(timeout_ms), 0, 0, 0]) }.map(|ready| ready > 0)
}

/// A number that nobody can guess; 0 where there is none.
pub fn random() -> u32 {
    let mut value = 0_u32;
    let place = (&raw mut value) as usize;
    // SAFETY: the kernel writes four bytes to a value that outlives the call.
    let _ = unsafe { call(SYS_GETRANDOM, [place, size_of::<u32>(), 0, 0, 0, 0]) };
    value
}

/// The CID of this guest; `None` where there is no vsock device.
pub fn own_cid() -> Option<u32> {
    const AT_FDCWD: i32 = -100;
    const O_CLOEXEC: usize = 0o200_0000;
    const IOCTL_VM_SOCKETS_GET_LOCAL_CID: usize = 0x7b9;
    let path = c"/dev/vsock".as_ptr() as usize;
    // SAFETY: the path ends with a zero and outlives the call.
    let fd = unsafe { call(SYS_OPENAT, [arg(AT_FDCWD), path, O_CLOEXEC, 0, 0, 0]) }.ok()?;
    let device = Owned(descriptor(fd));
    let mut cid = 0_u32;
    let place = (&raw mut cid) as usize;
    let args = [
        arg(device.0),
        IOCTL_VM_SOCKETS_GET_LOCAL_CID,
        place,
        0,
        0,
        0,
    ];
    // SAFETY: the kernel writes four bytes to a value that outlives the call.
    unsafe { call(SYS_IOCTL, args) }.ok()?;
    Some(cid)
}
