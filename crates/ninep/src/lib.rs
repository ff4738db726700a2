// SPDX-License-Identifier: Apache-2.0
//! A 9P2000.L file server, the dialect of Linux's own client
//! (`Documentation/filesystems/9p.rst`; messages as in diod's `protocol.md`).
//!
//! ```text
//! connection (frames) -> request (a value, bounded) -> server (fids) -> files
//! ```
//!
//! A client names files by walking from the root, one name at a time, and holds
//! what it found. No name has a slash or goes up, no symbolic link is followed:
//! the client resolves links itself. So nothing outside the root can be named,
//! whatever a client sends, and moving a folder on the host opens no way out.
#![forbid(unsafe_code)]

pub mod connection;
mod fids;
pub mod files;
pub mod request;
pub mod server;
pub mod wire;
