// SPDX-License-Identifier: Apache-2.0
//! The structures of `include/inn_rings.h`.

use inn_ringwire::abi::Address;

/// `struct xen_argo_addr`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CAddress {
    pub(crate) port: u32,
    pub(crate) domain: u16,
    pub(crate) pad: u16,
}

impl From<CAddress> for Address {
    fn from(address: CAddress) -> Self {
        Self {
            port: address.port,
            domain: address.domain,
            pad: address.pad,
        }
    }
}

impl From<Address> for CAddress {
    fn from(address: Address) -> Self {
        Self {
            port: address.port,
            domain: address.domain,
            pad: address.pad,
        }
    }
}

/// `struct xen_argo_send_addr`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CSendAddress {
    pub(crate) source: CAddress,
    pub(crate) destination: CAddress,
}

/// `struct xen_argo_register_ring`, and without its last field that of unregistering.
#[repr(C)]
pub struct CRing {
    pub(crate) port: u32,
    pub(crate) partner: u16,
    pub(crate) pad: u16,
    pub(crate) len: u32,
}

/// `struct xen_argo_unregister_ring`
#[repr(C)]
pub struct CUnregister {
    pub(crate) port: u32,
    pub(crate) partner: u16,
    pub(crate) pad: u16,
}

/// `struct iovec`
#[repr(C)]
pub struct CPiece {
    pub(crate) start: *const u8,
    pub(crate) len: usize,
}

/// `struct xen_argo_ring_data_ent`
#[repr(C)]
pub struct CEntry {
    pub(crate) ring: CAddress,
    pub(crate) flags: u16,
    pub(crate) pad: u16,
    pub(crate) space_required: u32,
    pub(crate) max_message_size: u32,
}

/// `struct xen_argo_ring_data`, up to its entries.
#[repr(C)]
pub struct CEntries {
    pub(crate) count: u32,
    pub(crate) pad: u32,
}

/// `struct inn_rings_event`
#[repr(C)]
pub struct CEvent {
    pub(crate) port: u32,
    pub(crate) partner: u16,
    pub(crate) owner: u16,
    pub(crate) what: u32,
}

/// `struct inn_rings_message`
#[repr(C)]
pub struct CMessage {
    pub(crate) address: CSendAddress,
    pub(crate) data: *const u8,
    pub(crate) len: u32,
    pub(crate) message_type: u32,
    pub(crate) result: i32,
}
