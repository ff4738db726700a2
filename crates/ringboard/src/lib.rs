// SPDX-License-Identifier: Apache-2.0
//! One guest's rings and those who use them: its programs, the host's, and the
//! keepers of other guests, each on a Unix socket.
//!
//! ```text
//!  guest's programs ──vsock.sock_7078──┐            ┌──rings_from_<CID>.sock── B's board
//!  host's programs ──rings.sock────────┤  a Board   │       (B's stand-in domain here)
//!                                      └─ Mediator ─┘
//!                                             └──> B's rings_from_<own CID>.sock
//! ```
//!
//! A ring lies where its reader is. What the guest sends to another guest goes
//! over the link to that one's board, is executed there by a stand-in for the
//! sender, and the answer comes back. A link is the other's life too: when it
//! breaks, the other's domain is dead here.
//!
//! One thread owns everything. The protocol is in
//! `docs/reference/rings-protocol.md`, what the calls mean in `rings.md`.
#![forbid(unsafe_code)]

mod audit;
mod board;
mod clients;
mod connection;
mod error;
mod event_loop;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod handle;
mod links;
mod listeners;
mod peers;
mod serve;
mod table;
mod token;

pub use audit::{Decision, Decisions, Operation, Outcome};
pub use error::Error;
pub use handle::{Config, RingBoard};
pub use table::{Flow, HOST, Range, Row, Rules};
