// SPDX-License-Identifier: Apache-2.0
//! Rings on a stream: Argo's numbers and layouts ([`abi`], [`Errno`]), and the
//! frames in which programs, keepers and the engine exchange them.
//!
//! No I/O and no memory of its own: a frame is read as views of the bytes that
//! it came in, and written into any [`Sink`]. Whoever reads is told three things
//! apart: there is not a whole frame yet, here is one, and nobody sane sent
//! this. `docs/reference/rings-protocol.md` says it for other languages.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), no_std)]

#[cfg(feature = "alloc")]
extern crate alloc;

pub mod abi;
mod errno;
mod frame;
mod reader;
mod reply;
mod request;

pub use errno::Errno;
pub use frame::{Frame, MAX_BODY, MAX_FRAME, MAX_PAYLOAD, Malformed, PREFIX, Sink, split};
pub use reply::{Answer, Limits, Notice, RingRow, What, encode_answer, encode_notice};
pub use request::{Entries, For, Piece, Receive, Request, Sendv, UNREADABLE, VERSION, WAKE, kind};
