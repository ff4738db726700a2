// SPDX-License-Identifier: Apache-2.0
//! An SFTP server: version 3 of the protocol, which OpenSSH's `scp` and `sftp`,
//! `sshfs` and every library speak (draft-ietf-secsh-filexfer-02 and OpenSSH's
//! PROTOCOL), between two byte streams and the file system.
//!
//! ```text
//! packet (bytes) -> request (a value, bounded) -> server (files) -> reply (bytes)
//! ```
//!
//! It has no privilege of its own: it runs as the user whose files it serves.
//! Whatever a peer sends is bounded by [`PACKET_LIMIT`], the numbers of
//! [`server`], and what that user may do.
#![forbid(unsafe_code)]

pub mod attributes;
mod files;
pub mod packet;
pub mod reply;
pub mod request;
pub mod server;

pub use packet::PACKET_LIMIT;
pub use server::serve;
