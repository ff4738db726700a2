// SPDX-License-Identifier: Apache-2.0
//! A client of rings for the guest's side: [`Client`] for the agent, and with the
//! feature `c-abi` the functions of `include/inn_rings.h`.
//!
//! It asks the kernel for what it needs and links to nothing, so that the shared
//! library is loaded by programs of any libc of any age. What comes from the board
//! is read by `inn-ringwire` and bounded by buffers of a fixed size.
#![cfg_attr(not(test), no_std)]

mod buffer;
mod client;
mod events;
pub mod kernel;

#[cfg(all(feature = "freestanding", not(test)))]
mod bare;
#[cfg(feature = "c-abi")]
mod c_calls;
#[cfg(feature = "c-abi")]
mod c_sockets;
#[cfg(feature = "c-abi")]
mod c_types;

pub use buffer::Output;
pub use client::{Client, Place};
pub use events::Lost;
pub use inn_ringwire as wire;
pub use kernel::Error;
