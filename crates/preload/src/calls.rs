// SPDX-License-Identifier: Apache-2.0
//! The functions of the C library that the program calls here instead.
//!
//! Each first finds out whether the call is about a guest, by the address it is given
//! or by the mark of the socket, and otherwise passes it on with its own arguments.
//! `unsafe` means the same in all of them: the program's pointers are as its call of the
//! C library promises.
#![allow(clippy::missing_safety_doc)]

use core::ffi::{c_int, c_ulong, c_void};

use inn_inet::address::{self, Form, Meaning, Written};
use inn_inet::options::{self, SOCKET};
use inn_inet::swap::{self, Settings};
use inn_inet::sys::{self, AnyAddress, Errno, Owned, Result, VsockAddress};

use crate::connecting::{connect_again, connect_new, own_cid, put_in_place};
use crate::environment::current;
use crate::next::{self, errno, fail};

/// A `struct sockaddr`.
type Address = c_void;

/// MSG_FASTOPEN.
const FASTOPEN: c_int = 0x2000_0000;
/// FIONREAD.
const FIONREAD: c_ulong = 0x541b;
/// MSG_PEEK and MSG_DONTWAIT.
const PEEK: usize = 0x42;

/// A function's result, 0 or -1 with errno.
fn outcome(result: Result<()>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(errno) => fail(errno) as c_int,
    }
}

/// # Safety
/// `address` is null or has `length` readable bytes.
unsafe fn bytes<'a>(address: *const Address, length: u32) -> &'a [u8] {
    // Nothing longer is of a family of ours.
    let length = length.min(128) as usize;
    if address.is_null() {
        return &[];
    }
    // SAFETY: our caller's promise.
    unsafe { core::slice::from_raw_parts(address.cast(), length) }
}

/// # Safety
/// Both are null, or `*length` says how many bytes there are at `place`.
unsafe fn write_out(written: &Written, place: *mut Address, length: *mut u32) {
    if place.is_null() || length.is_null() {
        return;
    }
    let bytes = written.as_bytes();
    // SAFETY: our caller's promise; no more is copied than there is room for.
    unsafe {
        let room = *length as usize;
        core::ptr::copy_nonoverlapping(bytes.as_ptr(), place.cast(), bytes.len().min(room));
        *length = bytes.len() as u32;
    }
}

/// Where an address of ours leads; `None` for all others.
fn guest(to: &[u8], settings: Settings) -> Option<(Form, VsockAddress)> {
    match address::meaning(to, settings.argo)? {
        Meaning::Guest { cid, port, form } => Some((form, VsockAddress::remote(cid, port.into()))),
        _ => None,
    }
}

/// Connects to a guest; `None` where this is not about one.
fn connect_guest(fd: c_int, to: &[u8]) -> Option<Result<()>> {
    let settings = current()?;
    let (form, guest) = guest(to, settings)?;
    if swap::wants_form(fd, form) {
        return Some(connect_new(fd, form, &guest, settings));
    }
    swap::form_of(fd)?;
    Some(connect_again(fd, form, &guest, settings))
}

/// connect(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn connect(fd: c_int, to: *const Address, length: u32) -> c_int {
    // SAFETY: the program's promise.
    let found = unsafe { bytes(to, length) };
    match connect_guest(fd, found) {
        Some(result) => outcome(result),
        None => {
            let args = [fd as usize, to as usize, length as usize, 0, 0, 0];
            // SAFETY: the program's own call.
            unsafe { next::CONNECT.call(args) as c_int }
        }
    }
}

/// bind(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bind(fd: c_int, to: *const Address, length: u32) -> c_int {
    // SAFETY: the program's promise.
    let found = unsafe { bytes(to, length) };
    let swapped = current().and_then(|settings| swap::bind(fd, found, settings));
    match swapped {
        Some(result) => outcome(result.and_then(|new| put_in_place(new, fd))),
        None => {
            let args = [fd as usize, to as usize, length as usize, 0, 0, 0];
            // SAFETY: the program's own call.
            unsafe { next::BIND.call(args) as c_int }
        }
    }
}

/// listen(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn listen(fd: c_int, backlog: c_int) -> c_int {
    let swapped = current().and_then(|settings| swap::listen(fd, backlog, settings));
    match swapped {
        Some(new) => outcome(put_in_place(new, fd)),
        None => {
            let args = [fd as usize, backlog as usize, 0, 0, 0, 0];
            // SAFETY: the program's own call.
            unsafe { next::LISTEN.call(args) as c_int }
        }
    }
}

/// accept(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accept(fd: c_int, from: *mut Address, length: *mut u32) -> c_int {
    // SAFETY: the program's promise.
    unsafe { accept4(fd, from, length, 0) }
}

/// accept4(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accept4(
    fd: c_int,
    from: *mut Address,
    length: *mut u32,
    flags: c_int,
) -> c_int {
    let found = current().and_then(|settings| Some((settings, swap::form_of(fd)?)));
    let Some((settings, form)) = found else {
        let (from, length) = (from as usize, length as usize);
        let args = [fd as usize, from, length, flags as usize, 0, 0];
        // SAFETY: the program's own call.
        return unsafe { next::ACCEPT4.call(args) as c_int };
    };
    loop {
        let mut address = AnyAddress::default();
        let (place, room) = address.places();
        let args = [fd as usize, place, room, flags as usize, 0, 0];
        // SAFETY: the kernel writes no more than `address` has room for, which outlives
        // the call.
        let new = unsafe { next::ACCEPT4.call(args) as c_int };
        if new < 0 {
            return new;
        }
        let peer = address.vsock().unwrap_or_default();
        if !swap::may_enter(&peer, settings) {
            drop(Owned::new(new));
            continue;
        }
        // A socket that has no mark answers with vsock's words, and works.
        let _ = swap::mark(new, form);
        // SAFETY: the program's promise.
        unsafe { write_out(&swap::name(form, &peer, own_cid()), from, length) };
        return new;
    }
}

/// # Safety
/// As for getsockname(2) and getpeername(2).
unsafe fn answer_name(
    fd: c_int,
    place: *mut Address,
    length: *mut u32,
    ask: fn(i32) -> Result<AnyAddress>,
    native: &next::Function,
) -> c_int {
    let form = current().and_then(|_| swap::form_of(fd));
    let Some(form) = form else {
        let args = [fd as usize, place as usize, length as usize, 0, 0, 0];
        // SAFETY: the program's own call.
        return unsafe { native.call(args) as c_int };
    };
    match ask(fd) {
        Ok(address) => {
            let address = address.vsock().unwrap_or_default();
            // SAFETY: the program's promise.
            unsafe { write_out(&swap::name(form, &address, own_cid()), place, length) };
            0
        }
        Err(errno) => outcome(Err(errno)),
    }
}

/// getsockname(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockname(fd: c_int, place: *mut Address, length: *mut u32) -> c_int {
    // SAFETY: the program's promise.
    unsafe { answer_name(fd, place, length, sys::own_address, &next::GETSOCKNAME) }
}

/// getpeername(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getpeername(fd: c_int, place: *mut Address, length: *mut u32) -> c_int {
    // SAFETY: the program's promise.
    unsafe { answer_name(fd, place, length, sys::peer_address, &next::GETPEERNAME) }
}

/// setsockopt(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    length: u32,
) -> c_int {
    let ignored = options::may_be_ignored(level, name) && current().is_some();
    // Our mark must not be overwritten.
    if ignored && level == SOCKET && swap::form_of(fd).is_some() {
        return 0;
    }
    let args = [
        fd as usize,
        level as usize,
        name as usize,
        value as usize,
        length as usize,
        0,
    ];
    // SAFETY: the program's own call.
    let result = unsafe { next::SETSOCKOPT.call(args) as c_int };
    let unknown = result < 0 && is_unknown(errno());
    if unknown && ignored && swap::form_of(fd).is_some() {
        return 0;
    }
    result
}

/// What vsock says of other families' options.
fn is_unknown(errno: Errno) -> bool {
    errno == Errno::ENOPROTOOPT || errno == Errno::EOPNOTSUPP
}

/// getsockopt(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    length: *mut u32,
) -> c_int {
    let ours = options::is_answered(level, name) && !value.is_null() && !length.is_null();
    let form = if ours && current().is_some() {
        swap::form_of(fd)
    } else {
        None
    };
    if let Some(answer) = form.and_then(|form| swap::option(fd, form, level, name)) {
        // SAFETY: the program says that there are `*length` bytes at `value`.
        unsafe {
            let room = core::slice::from_raw_parts_mut(value.cast(), *length as usize);
            *length = answer.write(room) as u32;
        }
        return 0;
    }
    let (value, length) = (value as usize, length as usize);
    let args = [fd as usize, level as usize, name as usize, value, length, 0];
    // SAFETY: the program's own call.
    unsafe { next::GETSOCKOPT.call(args) as c_int }
}

/// sendto(2): MSG_FASTOPEN connects, too, and TCP takes no notice of an address that a
/// connected socket does not need.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendto(
    fd: c_int,
    data: *const c_void,
    count: usize,
    flags: c_int,
    to: *const Address,
    length: u32,
) -> isize {
    let (data, mut flags) = (data as usize, flags);
    let mut address = (to as usize, length as usize);
    if !to.is_null() && current().is_some() {
        // SAFETY: the program's promise.
        let found = unsafe { bytes(to, length) };
        if flags & FASTOPEN != 0 {
            match connect_guest(fd, found) {
                Some(Ok(()) | Err(Errno::EISCONN)) => flags &= !FASTOPEN,
                Some(Err(errno)) => return fail(errno),
                None => {}
            }
        }
        if swap::form_of(fd).is_some() {
            address = (0, 0);
        }
    }
    let args = [
        fd as usize,
        data,
        count,
        flags as usize,
        address.0,
        address.1,
    ];
    // SAFETY: the program's own call.
    unsafe { next::SENDTO.call(args) }
}

/// ioctl(2): FIONREAD, which vsock lacks before Linux 6.17. It has one more argument at
/// most, and on this architecture a function cannot tell how it was declared.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    let args = [fd as usize, request as usize, argument as usize, 0, 0, 0];
    // SAFETY: the program's own call.
    let result = unsafe { next::IOCTL.call(args) as c_int };
    if result >= 0 || request != FIONREAD || argument.is_null() {
        return result;
    }
    let before = errno();
    if current().is_none() || swap::form_of(fd).is_none() {
        return fail(before) as c_int;
    }
    // As much as fits: more than "nothing" is what programs want to know.
    let mut room = core::mem::MaybeUninit::<[u8; 16 << 10]>::uninit();
    let args = [
        fd as usize,
        (&raw mut room) as usize,
        size_of_val(&room),
        PEEK,
        0,
        0,
    ];
    // SAFETY: the kernel writes no more than there is room for, which outlives the call.
    let count = unsafe { sys::call(sys::SYS_RECVFROM, args) }.unwrap_or(0);
    // SAFETY: FIONREAD's argument is an int of the program's.
    unsafe { *argument.cast::<c_int>() = count as c_int };
    0
}
