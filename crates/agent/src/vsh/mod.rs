// SPDX-License-Identifier: Apache-2.0
//! Shell sessions: the vsh protocol on port 9001.

mod attach;
mod channel;
mod kept;
mod launch;
mod log;
mod plumbing;
mod session;
mod stdin;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::agent::Agent;
use crate::transport::Listener;

/// Port of shell sessions.
pub const PORT: u32 = 9001;

/// Sessions at the same time. Each holds a few descriptors and buffers.
const MAX_SESSIONS: usize = 256;

/// Serves connections until the program ends.
pub async fn serve(listener: Listener, agent: Arc<Agent>) {
    let slots = Arc::new(Semaphore::new(MAX_SESSIONS));
    let registry = Arc::new(kept::Registry::default());
    loop {
        let stream = listener.accept().await;
        let (agent, registry) = (Arc::clone(&agent), Arc::clone(&registry));
        let slot = Arc::clone(&slots).try_acquire_owned();
        tokio::spawn(async move {
            match slot {
                Ok(_slot) => session::run(stream, &agent, &registry).await,
                Err(_) => session::turn_away(stream, MAX_SESSIONS).await,
            }
        });
    }
}
