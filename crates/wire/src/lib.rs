// SPDX-License-Identifier: Apache-2.0
//! Frames and messages of the guest channel, without any I/O.
//!
//! Shell sessions ([`vsh`]), the announcement ([`announce`]), forwarded
//! connections ([`forward`]) and the guest's log ([`guestlog`]) share one framing: a `u32` little-endian length, then that many bytes of protobuf
//! ([`frame`]). Every bound a peer could try to exceed is checked here, so that
//! the agent and the fuzz targets exercise the same code.
#![forbid(unsafe_code)]

pub mod frame;

/// Messages of shell sessions, generated from `proto/vsh.proto`.
#[allow(missing_docs, clippy::all)]
pub mod vsh {
    include!(concat!(env!("OUT_DIR"), "/vm_tools.vsh.rs"));
}

/// Messages of the announcement, generated from `proto/announce.proto`.
#[allow(missing_docs, clippy::all)]
pub mod announce {
    include!(concat!(env!("OUT_DIR"), "/innkeeper.announce.rs"));
}

/// Messages of forwarded connections, generated from `proto/forward.proto`.
#[allow(missing_docs, clippy::all)]
pub mod forward {
    include!(concat!(env!("OUT_DIR"), "/innkeeper.forward.rs"));
}

/// Messages of the guest's log, generated from `proto/guestlog.proto`.
#[allow(missing_docs, clippy::all)]
pub mod guestlog {
    include!(concat!(env!("OUT_DIR"), "/innkeeper.guestlog.rs"));
}
