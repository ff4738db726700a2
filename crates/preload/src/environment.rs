// SPDX-License-Identifier: Apache-2.0
//! Whether the library does anything, and what: read once, when it is loaded.

use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicU32, Ordering};

use inn_inet::environment::settings;
use inn_inet::swap::Settings;

unsafe extern "C" {
    /// The C library's.
    static environ: *const *const c_char;
}

const ACTIVE: u32 = 1 << 16;
const ARGO: u32 = 1 << 17;
const HOST_ONLY: u32 = 1 << 18;
const HAS_ADDEND: u32 = 1 << 19;

/// What [`settings`] found, in one word: the addend in its low half.
static FOUND: AtomicU32 = AtomicU32::new(0);

/// Run by the loader, before the program can change its environment.
extern "C" fn start() {
    // SAFETY: the C library set this up before it runs constructors, and no
    // thread runs yet that could change it.
    let found = settings(unsafe { entries(environ) });
    if let Some(found) = found {
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        let word = ACTIVE
            | flag(found.argo, ARGO)
            | flag(found.host_only, HOST_ONLY)
            | flag(found.addend.is_some(), HAS_ADDEND)
            | u32::from(found.addend.unwrap_or(0));
        FOUND.store(word, Ordering::Relaxed);
    }
    crate::next::find_all();
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

/// # Safety
/// `first` is null, or an array of strings that ends with null, and none of them
/// changes while the iterator is used.
unsafe fn entries<'a>(first: *const *const c_char) -> impl Iterator<Item = &'a [u8]> {
    let mut next = first;
    core::iter::from_fn(move || {
        if next.is_null() {
            return None;
        }
        // SAFETY: `next` is in the array: the last entry, null, ends the iteration.
        let entry = unsafe { *next };
        if entry.is_null() {
            return None;
        }
        // SAFETY: as above; the string ends with a zero.
        unsafe {
            next = next.add(1);
            Some(CStr::from_ptr(entry).to_bytes())
        }
    })
}

/// What is asked of this process; `None` for nothing.
pub fn current() -> Option<Settings> {
    let word = FOUND.load(Ordering::Relaxed);
    if word & ACTIVE == 0 {
        return None;
    }
    Some(Settings {
        argo: word & ARGO != 0,
        host_only: word & HOST_ONLY != 0,
        addend: (word & HAS_ADDEND != 0).then_some((word & 0xffff) as u16),
    })
}
