// SPDX-License-Identifier: Apache-2.0
//! What can go wrong while a device is set up.

use std::io;

/// Why a device could not be created or changed.
///
/// Nothing a guest sends ends up here: its faults are counted in
/// [`Stats`](crate::Stats) and answered on the wire.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The CID is reserved (0, 1, 2 and `u32::MAX`) or needs more than 32 bits.
    #[error("guest CID {0} is not between 3 and 4294967294")]
    InvalidCid(u64),
    /// `<hybrid_path>_<port>` would not fit into `sockaddr_un`.
    #[error("socket path {0:?} is too long: with _<port> it must fit into 107 bytes")]
    PathTooLong(String),
    /// The path holds a byte that no path may hold.
    #[error("socket path {0:?} contains a NUL byte")]
    PathInvalid(String),
    /// A service leads to nothing that can be dialled.
    #[error("{0:?} is neither unix:/path nor tcp:ADDRESS:PORT")]
    BadTarget(String),
    /// A descriptor is not the kind of socket the device needs.
    #[error("descriptor for {role} is not usable: {source}")]
    Descriptor {
        /// What the descriptor was to be used for.
        role: &'static str,
        /// What the kernel said about it.
        source: io::Error,
    },
    /// The kernel refused a resource (epoll, eventfd, thread).
    #[error("cannot start the device: {0}")]
    Start(#[from] io::Error),
    /// `close()` was called or QEMU hung up.
    #[error("the device is closed")]
    Closed,
}
