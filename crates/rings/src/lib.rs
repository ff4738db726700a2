// SPDX-License-Identifier: Apache-2.0
//! Argo's rings as a value: domains, the rings they registered, the messages in
//! them and those who wait for room. No I/O, no thread, no clock, no guest.
//!
//! ```text
//! carrier: who calls (an Endpoint), its arguments
//!    │  register_ring  unregister_ring  sendv  notify  receive
//!    v
//! Mediator ── asks ──> Policy
//!    │  the result, and with take_events whom to tell what
//!    v
//! carrier
//! ```
//!
//! The semantics are those of `xen/common/argo.c`; `docs/reference/rings.md`
//! lists where and why they differ. `tests/vectors/argo/` says both as data.
//!
//! A ring's memory is the mediator's. Where a guest of Xen moves pointers in a
//! shared page, a caller here passes numbers ([`Mediator::discard`]), which are
//! checked like all others: hostile callers are expected.
#![forbid(unsafe_code)]

mod buffer;
mod domain;
mod identity;
mod line;
mod mediator;
mod notify;
mod policy;
mod receive;
mod register;
mod ring;
mod send;
mod settings;

pub use identity::{Domain, Endpoint, Event, RingName, RingStatus};
pub use inn_ringwire::{Errno, abi};
pub use mediator::Mediator;
pub use policy::{AllowAll, Appearance, Operation, Policy, Question, Verdict};
pub use receive::Message;
pub use send::{Outgoing, Piece};
pub use settings::{Availability, Settings};
