// SPDX-License-Identifier: Apache-2.0
//! The handle by which a program owns a device.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use inn_reactor::check_socket;
use vhost::vhost_user::BackendReqHandler;

use crate::config::Config;
use crate::device::Device;
use crate::engine::Engine;
use crate::error::Error;
use crate::event_loop::{Command, EventLoop, Mailbox};
use crate::listeners::Clients;
use crate::muxer::Muxer;
use crate::peers::{Decisions, Peer};
use crate::poller::Poller;
use crate::services::Target;
use crate::stats::{Counters, Stats};

/// A running device. Dropping it closes it.
#[derive(Debug)]
pub struct VsockDevice {
    counters: Arc<Counters>,
    decisions: Arc<Decisions>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    mailbox: Arc<Mailbox>,
    /// QEMU's socket once more, to wake a thread that waits for the rest of
    /// a message.
    vhost: UnixStream,
    thread: JoinHandle<()>,
}

impl VsockDevice {
    /// Starts a device.
    ///
    /// `vhost` is connected to QEMU's chardev; `hybrid` listens for clients.
    /// Both are closed with the device, also if this fails.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidCid`], [`Error::PathTooLong`], [`Error::PathInvalid`]
    /// for values; [`Error::Descriptor`] and [`Error::Start`] for what the
    /// kernel refuses.
    pub fn start(config: Config, vhost: OwnedFd, hybrid: OwnedFd) -> Result<Self, Error> {
        config.check()?;
        check_socket(&vhost, false).map_err(|source| Error::Descriptor {
            role: "vhost",
            source,
        })?;
        check_socket(&hybrid, true).map_err(|source| Error::Descriptor {
            role: "hybrid",
            source,
        })?;
        rustix::io::ioctl_fionbio(&vhost, false).map_err(std::io::Error::from)?;

        let counters = Arc::new(Counters::default());
        let poller = Arc::new(Poller::new()?);
        let mailbox = Arc::new(Mailbox::new()?);
        let decisions = Arc::new(Decisions::new()?);
        let mut muxer = Muxer::new(config, counters.clone(), poller.clone(), decisions.clone());
        muxer.add_listener(hybrid, Clients::Any)?;
        let engine = Engine::new(muxer).map_err(std::io::Error::other)?;
        let device = Arc::new(Mutex::new(Device::new(engine)));

        let wake = UnixStream::from(vhost.try_clone()?);
        let polled = vhost.try_clone()?;
        let frontend = BackendReqHandler::from_stream(UnixStream::from(vhost), device.clone());
        let event_loop = EventLoop {
            poller,
            mailbox: mailbox.clone(),
            device,
            frontend,
        };
        event_loop.prepare(&polled)?;
        let thread = std::thread::Builder::new()
            .name("inn-vsock".into())
            .spawn(move || {
                event_loop.run();
                drop(polled);
            })?;
        let running = Mutex::new(Some(Running {
            mailbox,
            vhost: wake,
            thread,
        }));
        Ok(Self {
            counters,
            decisions,
            running,
        })
    }

    /// Connects every client of a listening Unix socket to `guest_port`.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] after `close()` or QEMU's end, [`Error::Descriptor`]
    /// if `listener` does not listen. It is closed in both cases.
    pub fn publish(&self, listener: OwnedFd, guest_port: u32) -> Result<(), Error> {
        check_listener(&listener)?;
        self.post(Command::Publish(listener, guest_port))
    }

    /// Serves the device of the guest `cid` on `listener`, as long as the
    /// table of [`set_peers`](Self::set_peers) has it. Who can connect to the
    /// listener speaks for that guest.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub fn link(&self, listener: OwnedFd, cid: u64) -> Result<(), Error> {
        check_listener(&listener)?;
        self.post(Command::Link(listener, cid))
    }

    /// Replaces what is allowed between this guest and others, by their CIDs,
    /// and the host's services, by their ports, and returns when that is in
    /// force. Streams that the new table does not allow are reset.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] as above.
    pub fn set_peers(
        &self,
        table: HashMap<u64, Peer>,
        services: HashMap<u32, Target>,
    ) -> Result<(), Error> {
        let (done, in_force) = sync_channel(1);
        self.post(Command::SetPeers(table, services, done))?;
        in_force.recv().map_err(|_| Error::Closed)
    }

    /// What was allowed and refused between this guest and others.
    #[must_use]
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    fn post(&self, command: Command) -> Result<(), Error> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mailbox = &running.as_ref().ok_or(Error::Closed)?.mailbox;
        mailbox.post(command).map_err(|_| Error::Closed)
    }

    /// Reads the counters; works after `close()` too.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.counters.snapshot()
    }

    /// Ends the device: resets all streams, ends the thread, closes every
    /// descriptor. May be called again and from any thread.
    pub fn close(&self) {
        let mut guard = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = guard.take() else { return };
        // The lock is kept: a second caller returns when all is closed, too.
        let _ = running.mailbox.post(Command::Close);
        let _ = running.vhost.shutdown(std::net::Shutdown::Both);
        let _ = running.thread.join();
    }
}

fn check_listener(listener: &OwnedFd) -> Result<(), Error> {
    check_socket(listener, true).map_err(|source| Error::Descriptor {
        role: "listener",
        source,
    })
}

impl Drop for VsockDevice {
    fn drop(&mut self) {
        self.close();
    }
}
