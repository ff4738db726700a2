// SPDX-License-Identifier: Apache-2.0
//! What is chosen once for a mediator.

/// Whether there are rings at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Availability {
    /// Every call gets `ENOSYS`: a host that has no rings.
    Absent,
    /// Every call gets `EOPNOTSUPP`: rings are switched off.
    Off,
    /// They work.
    #[default]
    On,
}

/// The choices, and what bounds a hostile caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether there are rings at all.
    pub availability: Availability,
    /// Whether wildcard rings may be registered (Xen's `mac-permissive`).
    pub mac_permissive: bool,
    /// How much of a wildcard ring's usable bytes one sender's unread messages
    /// may take, 1 to 100. At 50 or less no sender can keep another out; 100 is
    /// Xen's way.
    pub wildcard_quota_percent: u8,
    /// Domains at a time.
    pub max_domains: usize,
    /// Rings of one domain; Xen's number is 128.
    pub max_rings: usize,
    /// Sum of the lengths of one domain's rings, in bytes. The memory is the
    /// mediator's, where Xen's is the guest's own.
    pub max_ring_bytes: u64,
    /// Endpoints of one domain.
    pub max_endpoints: usize,
    /// Ports that the endpoints of one domain own.
    pub max_ports: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            availability: Availability::On,
            mac_permissive: false,
            wildcard_quota_percent: 50,
            max_domains: 4096,
            max_rings: 128,
            max_ring_bytes: 64 << 20,
            max_endpoints: 256,
            max_ports: 1024,
        }
    }
}
