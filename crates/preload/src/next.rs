// SPDX-License-Identifier: Apache-2.0
//! The functions that would have been called without this library: the next of their
//! name, which are places where a thread can be cancelled, or plain system calls where
//! the C library has no `dlsym`.

use core::arch::{asm, global_asm};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::sync::atomic::{AtomicUsize, Ordering};

use inn_inet::sys::{self, Errno};

unsafe extern "C" {
    fn __errno_location() -> *mut c_int;
}

// An older glibc has it in a library that the program need not have loaded.
global_asm!(".weak dlsym");

/// `RTLD_NEXT` (dlfcn.h).
const NEXT: *mut c_void = usize::MAX as *mut c_void;

/// One function of the C library, and its system call.
pub struct Function {
    name: &'static CStr,
    number: usize,
    found: AtomicUsize,
}

/// Up to six words, as every function here takes them.
type Entry = unsafe extern "C" fn(usize, usize, usize, usize, usize, usize) -> isize;

macro_rules! functions {
    ($($name:ident $text:literal $number:ident;)*) => {
        $(pub static $name: Function = Function {
            name: $text,
            number: sys::$number,
            found: AtomicUsize::new(0),
        };)*
        const ALL: &[&Function] = &[$(&$name),*];
    };
}

functions! {
    CONNECT c"connect" SYS_CONNECT;
    BIND c"bind" SYS_BIND;
    LISTEN c"listen" SYS_LISTEN;
    ACCEPT4 c"accept4" SYS_ACCEPT4;
    GETSOCKNAME c"getsockname" SYS_GETSOCKNAME;
    GETPEERNAME c"getpeername" SYS_GETPEERNAME;
    SETSOCKOPT c"setsockopt" SYS_SETSOCKOPT;
    GETSOCKOPT c"getsockopt" SYS_GETSOCKOPT;
    SENDTO c"sendto" SYS_SENDTO;
    IOCTL c"ioctl" SYS_IOCTL;
}

/// Finds the next of every function.
pub fn find_all() {
    let dlsym: usize;
    // SAFETY: reads a word of this object's own table of addresses.
    unsafe {
        asm!("mov {}, qword ptr [rip + dlsym@GOTPCREL]", out(reg) dlsym,
             options(nostack, readonly, preserves_flags));
    }
    if dlsym == 0 {
        return;
    }
    type Find = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;
    // SAFETY: that word is 0 or the address of the function of this name (dlsym(3)).
    let find = unsafe { core::mem::transmute::<usize, Find>(dlsym) };
    for function in ALL {
        // SAFETY: the name ends with a zero.
        let found = unsafe { find(NEXT, function.name.as_ptr()) };
        function.found.store(found as usize, Ordering::Relaxed);
    }
}

impl Function {
    /// Calls it; errno is set where it says -1.
    ///
    /// # Safety
    /// As for the function of this name.
    pub unsafe fn call(&self, args: [usize; 6]) -> isize {
        let found = self.found.load(Ordering::Relaxed);
        let [a, b, c, d, e, f] = args;
        if found != 0 {
            // SAFETY: dlsym found the function of this name, all of whose arguments are
            // words in registers; those beyond its own are ignored. The result is as
            // wide as the function's, of which our caller takes that much.
            return unsafe { core::mem::transmute::<usize, Entry>(found)(a, b, c, d, e, f) };
        }
        // SAFETY: our caller's promise.
        match unsafe { sys::call(self.number, args) } {
            Ok(value) => value as isize,
            Err(errno) => fail(errno),
        }
    }
}

/// Sets errno; -1.
pub fn fail(errno: Errno) -> isize {
    // SAFETY: the C library's errno of this thread, always there.
    unsafe { *__errno_location() = errno.0 };
    -1
}

/// What errno is.
pub fn errno() -> Errno {
    // SAFETY: the C library's errno of this thread, always there.
    Errno(unsafe { *__errno_location() })
}
