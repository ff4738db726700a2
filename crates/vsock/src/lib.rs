// SPDX-License-Identifier: Apache-2.0
//! A vhost-user-vsock device: streams between a guest and Unix sockets.
//!
//! # Roles
//!
//! - The **guest** talks virtio-vsock. Everything it sends is hostile until
//!   checked.
//! - **QEMU** (the vhost-user *frontend*) hands over guest memory, rings and
//!   eventfds on a connected socket, then stays out of the way of data.
//! - **Clients** connect to a listening Unix socket and name a guest port
//!   (`CONNECT <port>\n`), or to a *published* socket that names it for them.
//! - **Services** listen on `<hybrid_path>_<port>` for the guest.
//! - **Peers** are the devices of other guests. A table says which ports of
//!   whose guest may be asked for, in either direction; there is none at first.
//!
//! # Parts, outermost first
//!
//! | Module | Job |
//! |---|---|
//! | [`VsockDevice`] | starts and stops the thread; the only public handle |
//! | `event_loop` | the thread: epoll, commands, QEMU's requests |
//! | `device` | vhost-user requests, applied to rings and memory |
//! | `engine` | moves packets between rings and streams, batches interrupts |
//! | `ring`, `chain` | one virtqueue; descriptor chains as checked memory |
//! | `muxer`, `turns`, `listeners` | table of streams; whose turn it is; accepting, dialling |
//! | `peers`, `links` | the table of other guests and its audit; streams with them |
//! | `stream` | one Unix socket and what waits to be written to it |
//! | [`connection`] | one stream's state machine, without I/O |
//! | [`packet`], [`hybrid`] | the two formats |
//!
//! # Data path
//!
//! Payload is written from guest TX memory to the Unix socket and read from
//! the socket into guest RX memory, one `sendmsg` or `recvmsg` each and no
//! copy between. Only what a socket does not take is copied, into a buffer
//! that the stream's credit (256 KiB) bounds. Nothing ever blocks.
//!
//! # How streams end
//!
//! | One side does | The other side sees |
//! |---|---|
//! | client shuts down writing | end of file; the guest may go on sending |
//! | guest shuts down sending | end of file after the last byte; the client may go on sending |
//! | guest closes | end of file after the last byte; writing gives EPIPE |
//! | client closes | every byte, then end of file; sending gives EPIPE |
//! | client closes with unread bytes | a reset |
//! | guest resets without shutdown | a closed socket. `AF_UNIX` has no reset of its own: the client reads ECONNRESET only if bytes of *its* were not read yet, and end of file otherwise |
//! | guest resets after its shutdown | every byte, then end of file |
//!
//! Guest memory is trusted to keep its size: QEMU seals its memfd. A frontend
//! that truncates it kills this process by SIGBUS, as it would any backend.

mod chain;
mod config;
pub mod connection;
mod device;
mod engine;
mod error;
mod event_loop;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod handle;
pub mod hybrid;
mod links;
mod listeners;
mod muxer;
mod pace;
pub mod packet;
mod peers;
mod poller;
mod ring;
mod services;
mod stats;
mod stream;
mod turns;

pub use config::Config;
pub use error::Error;
pub use handle::VsockDevice;
pub use peers::{Decision, Decisions, Peer, Verdict};
pub use services::Target;
pub use stats::Stats;
