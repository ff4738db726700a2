// SPDX-License-Identifier: Apache-2.0
//! What a library without std has to bring itself.

use core::panic::PanicInfo;

/// Nothing here panics on what comes from outside; a bug ends the program at once.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    crate::kernel::abort()
}
