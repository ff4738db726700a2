// SPDX-License-Identifier: Apache-2.0
//! One virtqueue with its notifications, as vhost-user describes it.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::Ordering;

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestAddress;

use crate::chain::Memory;

/// Largest queue a guest may set up. QEMU's vsock device uses 128.
pub(crate) const MAX_QUEUE_SIZE: u16 = 1024;

/// The guest broke the rules of the ring; it cannot be served any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl From<virtio_queue::Error> for Malformed {
    fn from(_: virtio_queue::Error) -> Self {
        Self
    }
}

/// A virtqueue and its two notifications.
#[derive(Debug)]
pub(crate) struct Ring {
    queue: Queue,
    pub(crate) kick: Option<File>,
    pub(crate) call: Option<File>,
    pub(crate) enabled: bool,
    /// Between a kick descriptor and `GET_VRING_BASE`.
    pub(crate) started: bool,
    broken: bool,
}

impl Ring {
    pub(crate) fn new() -> Result<Self, virtio_queue::Error> {
        Ok(Self {
            queue: Queue::new(MAX_QUEUE_SIZE)?,
            kick: None,
            call: None,
            enabled: false,
            started: false,
            broken: false,
        })
    }

    pub(crate) fn is_active(&self) -> bool {
        self.started && self.enabled && !self.broken
    }

    /// Starts the ring; a layout that does not fit guest memory breaks it.
    /// Returns whether it can be served.
    pub(crate) fn start(&mut self, memory: Option<&Memory>) -> bool {
        self.started = true;
        self.queue.set_ready(true);
        self.broken = !memory.is_some_and(|memory| self.queue.is_valid(memory));
        !self.broken
    }

    /// Stops the ring and says where a successor has to go on.
    pub(crate) fn stop(&mut self) -> u16 {
        self.started = false;
        self.broken = false;
        self.queue.set_ready(false);
        self.kick = None;
        self.call = None;
        self.queue.next_avail()
    }

    pub(crate) fn break_down(&mut self) {
        self.broken = true;
    }

    pub(crate) fn set_size(&mut self, size: u32) -> Result<(), Malformed> {
        let size = u16::try_from(size).map_err(|_| Malformed)?;
        Ok(self.queue.try_set_size(size)?)
    }

    pub(crate) fn set_event_idx(&mut self, enabled: bool) {
        self.queue.set_event_idx(enabled);
    }

    pub(crate) fn set_next_avail(&mut self, next: u16) {
        self.queue.set_next_avail(next);
    }

    /// Places the ring in guest memory. The used index is read back: the
    /// frontend restores only the avail index (as libvhost-user does).
    pub(crate) fn set_addresses(
        &mut self,
        memory: &Memory,
        desc: u64,
        avail: u64,
        used: u64,
    ) -> Result<(), Malformed> {
        self.queue.try_set_desc_table_address(GuestAddress(desc))?;
        self.queue.try_set_avail_ring_address(GuestAddress(avail))?;
        self.queue.try_set_used_ring_address(GuestAddress(used))?;
        let used = self.queue.used_idx(memory, Ordering::Relaxed)?;
        self.queue.set_next_used(used.0);
        Ok(())
    }

    /// Takes the next chain the guest made available.
    pub(crate) fn pop<'m>(
        &mut self,
        memory: &'m Memory,
    ) -> Result<Option<DescriptorChain<&'m Memory>>, Malformed> {
        // `iter` refuses an avail index that is more than a ring ahead.
        Ok(self.queue.iter(memory)?.next())
    }

    /// Gives the last `count` popped chains back, as if never taken.
    pub(crate) fn unpop(&mut self, count: usize) {
        // At most a ring's worth of chains was popped.
        let count = u16::try_from(count).unwrap_or(0);
        self.queue
            .set_next_avail(self.queue.next_avail().wrapping_sub(count));
    }

    /// Returns a chain to the guest with `written` bytes in it.
    pub(crate) fn complete(
        &mut self,
        memory: &Memory,
        head: u16,
        written: usize,
    ) -> Result<(), Malformed> {
        let written = u32::try_from(written).map_err(|_| Malformed)?;
        Ok(self.queue.add_used(memory, head, written)?)
    }

    /// Asks for a kick when the guest adds chains; `true` if it did already.
    pub(crate) fn ask_for_kick(&mut self, memory: &Memory) -> Result<bool, Malformed> {
        Ok(self.queue.enable_notification(memory)?)
    }

    /// Tells the guest that kicks are not needed for now.
    pub(crate) fn silence(&mut self, memory: &Memory) -> Result<(), Malformed> {
        Ok(self.queue.disable_notification(memory)?)
    }

    /// Interrupts the guest unless it asked not to be for now.
    pub(crate) fn signal(&mut self, memory: &Memory) -> Result<(), Malformed> {
        if self.queue.needs_notification(memory)? {
            if let Some(call) = &mut self.call {
                // An eventfd fails only when its counter is full, and then
                // the interrupt is pending anyway.
                let _ = call.write(&1u64.to_ne_bytes());
            }
        }
        Ok(())
    }

    /// Takes the pending kicks.
    pub(crate) fn drain_kick(&mut self) {
        if let Some(kick) = &mut self.kick {
            let _ = kick.read(&mut [0; 8]);
        }
    }
}
