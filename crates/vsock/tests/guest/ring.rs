// SPDX-License-Identifier: Apache-2.0
//! The driver's half of a queue.

use vmm_sys_util::eventfd::EventFd;

/// The driver's half of a queue. Slot i owns descriptors 2i and 2i + 1.
pub struct Ring {
    pub base: u64,
    pub buffers: u64,
    pub avail: u16,
    pub seen: u16,
    pub kick: EventFd,
    pub call: EventFd,
}

impl Ring {
    pub fn new(index: u64) -> Self {
        Self {
            base: 0x1_0000 * (index + 1),
            buffers: 0x10_0000 + index * 0x40_0000,
            avail: 0,
            seen: 0,
            kick: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
            call: EventFd::new(libc::EFD_NONBLOCK).unwrap(),
        }
    }

    pub fn avail_addr(&self) -> u64 {
        self.base + 0x2000
    }

    pub fn used_addr(&self) -> u64 {
        self.base + 0x4000
    }
}
