// SPDX-License-Identifier: Apache-2.0
//! Mount: one mount(2) call, its errno in the answer.

use std::os::unix::fs::DirBuilderExt;

use nix::errno::Errno;
use nix::mount::MsFlags;
use tonic::Status;

use super::proto::{MountRequest, MountResponse};

/// Mode of a created target when the request names none.
const DEFAULT_MODE: u32 = 0o755;

/// Mounts on a thread that may block: the server of a share may hang.
pub async fn mount(request: MountRequest) -> Result<MountResponse, Status> {
    let mounted = tokio::task::spawn_blocking(move || mount_now(&request)).await;
    let result = mounted.map_err(|error| Status::internal(error.to_string()))?;
    Ok(MountResponse {
        error: result.err().map_or(0, |errno| errno as i32),
    })
}

fn mount_now(request: &MountRequest) -> nix::Result<()> {
    if request.target.is_empty() {
        return Err(Errno::EINVAL);
    }
    if request.create_target {
        create_target(request)?;
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

fn create_target(request: &MountRequest) -> nix::Result<()> {
    let mode = if request.permissions == 0 {
        DEFAULT_MODE
    } else {
        request.permissions
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(&request.target)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidInput => Errno::EINVAL,
            _ => error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_errnos() {
        let request = |target: &str, create_target| MountRequest {
            source: "none".into(),
            target: target.into(),
            fstype: "no-such-fs".into(),
            create_target,
            ..Default::default()
        };
        assert_eq!(mount_now(&request("", false)), Err(Errno::EINVAL));
        assert_eq!(mount_now(&request("/a\0b", false)), Err(Errno::EINVAL));
        assert_eq!(mount_now(&request("/a\0b", true)), Err(Errno::EINVAL));
        assert_eq!(
            mount_now(&request("/proc/no/such", true)),
            Err(Errno::ENOENT)
        );
        assert!(mount_now(&request("/no/such", false)).is_err());
    }
}
