// SPDX-License-Identifier: Apache-2.0
//! What can go wrong while a board is set up. Nothing that a client sends ends
//! up here.

use std::io;

/// Why a board could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id is 0, or reserved.
    #[error("{0} is no id that a guest's domain can have: 1 to 32751")]
    InvalidId(u16),
    /// A descriptor is not the kind of socket that is needed.
    #[error("descriptor for {role} is not usable: {source}")]
    Descriptor {
        /// What it was to be used for.
        role: &'static str,
        /// What the kernel said about it.
        source: io::Error,
    },
    /// The kernel refused a resource (epoll, eventfd, thread).
    #[error("cannot start the ring board: {0}")]
    Start(#[from] io::Error),
    /// `close()` was called.
    #[error("the ring board is closed")]
    Closed,
}
