// SPDX-License-Identifier: Apache-2.0
//! What a native thread of the keeper is made of: it waits for descriptors and
//! deadlines ([`Poller`], [`Timers`]), other threads tell it something
//! ([`Mailbox`]), and it leaves word for a slower reader ([`Outbox`]).
#![forbid(unsafe_code)]

mod mailbox;
mod outbox;
mod poller;
mod sockets;

pub use mailbox::Mailbox;
pub use outbox::Outbox;
pub use poller::{Event, Poller, Timers, Token};
pub use sockets::check_socket;
