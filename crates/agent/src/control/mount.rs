// SPDX-License-Identifier: Apache-2.0
//! Mount: one mount(2) call, its errno in the answer; before it, perhaps, a new
//! file system on a disk that has none.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::stat::Mode;
use tonic::Status;

use super::launch::launch_process;
use super::proto::{LaunchProcessRequest, MountRequest, MountResponse, ProcessStatus};
use super::targets::{DEFAULT_MODE, Targets};
use super::{apart, number};
use crate::agent::Agent;

/// A disk with nothing in this many bytes has no file system: the
/// superblocks of all that Linux mounts begin within it.
const BLANK: u64 = 1 << 20;

/// Mounts, and makes a file system first where that is asked for and needed.
pub async fn mount(agent: &Arc<Agent>, request: MountRequest) -> Result<MountResponse, Status> {
    let mut result = mount_apart(agent, &request).await;
    if request.mkfs_if_needed && result.is_err() && is_blank_apart(&request.source).await? {
        result = match make_file_system(agent, &request).await? {
            Ok(()) => mount_apart(agent, &request).await,
            failed => failed,
        };
    }
    Ok(MountResponse {
        error: number(result),
    })
}

async fn mount_apart(agent: &Arc<Agent>, request: &MountRequest) -> nix::Result<()> {
    let (agent, request) = (Arc::clone(agent), request.clone());
    apart(move || mount_now(&agent.targets, &request)).await
}

async fn is_blank_apart(source: &str) -> Result<bool, Status> {
    let source = source.to_owned();
    tokio::task::spawn_blocking(move || is_blank(&source).unwrap_or(false))
        .await
        .map_err(|error| Status::internal(error.to_string()))
}

/// Whether a block device holds nothing where a file system would begin. What
/// cannot be read, or is no disk, is not for us to overwrite.
fn is_blank(source: &str) -> std::io::Result<bool> {
    if !std::fs::metadata(source)?.file_type().is_block_device() {
        return Ok(false);
    }
    let mut data = Vec::new();
    File::open(source)?.take(BLANK).read_to_end(&mut data)?;
    Ok(!data.is_empty() && data.iter().all(|byte| *byte == 0))
}

async fn make_file_system(
    agent: &Arc<Agent>,
    request: &MountRequest,
) -> Result<nix::Result<()>, Status> {
    let program = format!("mkfs.{}", request.fstype);
    let launch = LaunchProcessRequest {
        argv: vec![program.clone(), request.source.clone()],
        wait_for_exit: true,
        ..Default::default()
    };
    let response = launch_process(agent, launch).await?;
    Ok(match (response.status(), response.code) {
        (ProcessStatus::Exited, 0) => Ok(()),
        (ProcessStatus::Failed, errno) => Err(Errno::from_raw(errno)),
        (_, code) => {
            let said = String::from_utf8_lossy(&response.output);
            let detail = format!("{program} {}: {code}: {said}", request.source);
            agent.failures.report("mkfs", detail);
            Err(Errno::EIO)
        }
    })
}

fn mount_now(targets: &Targets, request: &MountRequest) -> nix::Result<()> {
    if request.target.is_empty() {
        return Err(Errno::EINVAL);
    }
    if request.create_target {
        let mode = match request.permissions {
            0 => DEFAULT_MODE,
            mode => Mode::from_bits_truncate(mode),
        };
        targets.create(Path::new(&request.target), mode)?;
    }
    let flags = MsFlags::from_bits_retain(request.mountflags);
    let given = |text: &'_ String| (!text.is_empty()).then(|| text.clone());
    nix::mount::mount(
        given(&request.source).as_deref(),
        request.target.as_str(),
        given(&request.fstype).as_deref(),
        flags,
        given(&request.options).as_deref(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_can_be_blank() {
        assert!(!is_blank("/dev/zero").unwrap());
        assert!(!is_blank("/proc/version").unwrap());
        assert!(is_blank("/no/such").is_err());
    }

    #[test]
    fn errors_are_errnos() {
        let mount = |request: &MountRequest| mount_now(&Targets::default(), request);
        let request = |target: &str, create_target| MountRequest {
            source: "none".into(),
            target: target.into(),
            fstype: "no-such-fs".into(),
            create_target,
            ..Default::default()
        };
        assert_eq!(mount(&request("", false)), Err(Errno::EINVAL));
        assert_eq!(mount(&request("/a\0b", false)), Err(Errno::EINVAL));
        assert_eq!(mount(&request("/a\0b", true)), Err(Errno::EINVAL));
        assert_eq!(mount(&request("/proc/no/such", true)), Err(Errno::ENOENT));
        assert!(mount(&request("/no/such", false)).is_err());
    }
}
