// SPDX-License-Identifier: Apache-2.0
//! `libinn_preload.so`, for LD_PRELOAD: calls that name a guest by its inet address get
//! a vsock socket under the program's own descriptor, and that socket answers as a TCP
//! socket would. Everything else goes to the C library unseen.
//!
//! It needs no library and no symbol version, so that programs of any glibc or musl
//! load it: `__errno_location`, `environ` and the functions of the compiler, which all
//! have, and `dlsym` where there is one. It keeps no table of descriptors (see
//! [`inn_inet`]), allocates nothing and takes no lock, so that forks, threads and
//! signal handlers see nothing unusual.
#![cfg_attr(not(test), no_std)]

#[cfg(not(test))]
mod calls;
#[cfg(not(test))]
mod connecting;
#[cfg(not(test))]
mod environment;
#[cfg(not(test))]
mod next;

/// Nothing here panics; the compiler wants to know what would happen.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
