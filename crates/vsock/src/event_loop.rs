// SPDX-License-Identifier: Apache-2.0
//! The device's only thread: waits, dispatches, lets the engine run.
//!
//! One thread owns everything, so vhost-user requests (which stop rings and
//! replace memory) can never meet a packet half-way. The mutex around the
//! device is what the `vhost` crate asks for; nobody else ever takes it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost::vhost_user::BackendReqHandler;

use crate::device::Device;
use crate::listeners::Clients;
use crate::peers::Peer;
use crate::poller::{Event, Poller, Token};
use crate::services::Target;

/// What other threads ask of the device thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// Connect a listener's clients to a guest port.
    Publish(OwnedFd, u32),
    /// Serve the device of the guest with this CID on a listener.
    Link(OwnedFd, u64),
    /// Replace the table of other guests and the host's services, and say when it is in force.
    SetPeers(HashMap<u64, Peer>, HashMap<u32, Target>, SyncSender<()>),
    /// End.
    Close,
}

/// The way in for other threads.
pub(crate) type Mailbox = inn_reactor::Mailbox<Command>;

/// Everything the device thread owns.
pub(crate) struct EventLoop {
    pub(crate) poller: Arc<Poller>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) device: Arc<Mutex<Device>>,
    pub(crate) frontend: BackendReqHandler<Mutex<Device>>,
}

/// Why the loop ends.
struct Ended;

impl EventLoop {
    /// Registers the mailbox and QEMU's socket.
    pub(crate) fn prepare(&self, vhost: &OwnedFd) -> std::io::Result<()> {
        self.poller.add_level(&*self.mailbox, Token::Wake)?;
        self.poller.add_level(vhost, Token::Vhost)
    }

    /// Runs until `close()`, until QEMU hangs up, or until it breaks the protocol.
    pub(crate) fn run(mut self) {
        let mut events = Vec::new();
        let mut more = false;
        loop {
            // Sockets are looked at between passes even when there is more.
            let deadline = if more {
                Some(std::time::Instant::now())
            } else {
                self.device().engine.next_deadline()
            };
            if self.poller.wait(&mut events, deadline).is_err() {
                break;
            }
            if events
                .iter()
                .any(|event| matches!(self.dispatch(*event), Err(Ended)))
            {
                break;
            }
            let mut device = self.device();
            device.engine.on_deadlines();
            more = device.engine.run();
        }
        self.mailbox.seal();
        // The guest may live on a little: tell it what it can still hear.
        let mut device = self.device();
        device.engine.muxer.reset_all();
        device.engine.run();
        device.engine.say_tx();
    }

    fn device(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn dispatch(&mut self, event: Event) -> Result<(), Ended> {
        match event.token {
            // Without its frontend the device has no purpose, and after a
            // protocol error no common ground with it.
            Token::Vhost => return self.frontend.handle_request().map_err(|_| Ended),
            Token::Wake => {
                return self
                    .mailbox
                    .take()
                    .into_iter()
                    .try_for_each(|command| self.obey(command));
            }
            Token::Kick(index) => self.device().engine.on_kick(usize::from(index)),
            Token::Listener(id) => self.device().engine.muxer.on_client(id),
            Token::Handshake(id) => self.device().engine.muxer.on_handshake(id),
            Token::Stream(id) => self.device().engine.muxer.on_stream_event(id, event),
        }
        Ok(())
    }

    fn obey(&self, command: Command) -> Result<(), Ended> {
        match command {
            Command::Close => Err(Ended),
            Command::Publish(listener, port) => {
                // Checked when it was posted; what is left to fail is epoll
                // out of memory, and then closing the listener tells clients.
                let _ = self
                    .device()
                    .engine
                    .muxer
                    .add_listener(listener, Clients::Of(port));
                Ok(())
            }
            Command::Link(listener, cid) => {
                let _ = self.device().engine.muxer.add_link(listener, cid);
                Ok(())
            }
            Command::SetPeers(table, services, done) => {
                self.device().engine.muxer.replace_peers(table, services);
                // Who asked may have given up waiting.
                let _ = done.try_send(());
                Ok(())
            }
        }
    }
}
