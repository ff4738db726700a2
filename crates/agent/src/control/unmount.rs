// SPDX-License-Identifier: Apache-2.0
//! Unmount: one umount2(2) call, and the folder that was made for the mount.

use std::sync::Arc;

use nix::mount::{MntFlags, umount2};

use super::apart;
use super::proto::UnmountRequest;
use super::targets::check;
use crate::agent::Agent;

/// Unmounts.
pub async fn unmount(agent: &Arc<Agent>, request: UnmountRequest) -> nix::Result<()> {
    let agent = Arc::clone(agent);
    apart(move || {
        let target = check(&request.target)?;
        let mut flags = MntFlags::UMOUNT_NOFOLLOW;
        flags.set(MntFlags::MNT_DETACH, request.lazy);
        umount2(target, flags)?;
        agent.targets.remove(target);
        Ok(())
    })
    .await
}
