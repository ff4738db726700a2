// SPDX-License-Identifier: Apache-2.0
//! Mount9P: a file tree that a program of the host serves on a vsock port.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount as mount_call};
use tokio::time::timeout;

use super::apart;
use super::proto::{Cache9P, Mount9PRequest};
use super::targets::{DEFAULT_MODE, check};
use crate::agent::Agent;
use crate::transport::Transport;

/// For the connection to the server.
const PATIENCE: Duration = Duration::from_secs(10);

const MAX_ANAME: usize = 1024;

/// What both the kernel and servers can do.
const MESSAGE_SIZES: std::ops::RangeInclusive<u32> = 4096..=1 << 20;

/// Connects and mounts.
pub async fn mount(
    agent: &Arc<Agent>,
    transport: &Transport,
    request: Mount9PRequest,
) -> nix::Result<()> {
    let own_options = options(&request)?;
    check(&request.target)?;
    let stream = timeout(PATIENCE, transport.dial(request.port))
        .await
        .map_err(|_| Errno::ETIMEDOUT)?
        .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    let agent = Arc::clone(agent);
    apart(move || {
        let target = check(&request.target)?;
        agent.targets.create(target, DEFAULT_MODE)?;
        let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        flags.set(MsFlags::MS_RDONLY, request.read_only);
        // The kernel takes a reference; ours ends here.
        let fd = stream.as_fd().as_raw_fd();
        let options = format!("trans=fd,rfdno={fd},wfdno={fd},{own_options}");
        let mounted = mount_call(
            Some("host"),
            target,
            Some("9p"),
            flags,
            Some(options.as_str()),
        );
        if mounted.is_err() {
            agent.targets.remove(target);
        }
        mounted
    })
    .await
}

/// Mount options but for the connection.
fn options(request: &Mount9PRequest) -> nix::Result<String> {
    let cache = match Cache9P::try_from(request.cache).map_err(|_| Errno::EINVAL)? {
        Cache9P::Cache9pNone => "none",
        Cache9P::Cache9pMmap => "mmap",
        Cache9P::Cache9pLoose => "loose",
    };
    let mut options = format!("version=9p2000.L,access=any,cache={cache}");
    match request.msize_bytes {
        0 => {}
        size if MESSAGE_SIZES.contains(&size) => options.push_str(&format!(",msize={size}")),
        _ => return Err(Errno::EINVAL),
    }
    if !request.aname.is_empty() {
        if request.aname.len() > MAX_ANAME || request.aname.contains([',', '\0']) {
            return Err(Errno::EINVAL);
        }
        options.push_str(",aname=");
        options.push_str(&request.aname);
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for() {
        let request = Mount9PRequest {
            aname: "/srv".into(),
            msize_bytes: 65536,
            cache: Cache9P::Cache9pLoose.into(),
            ..Default::default()
        };
        let expected = "version=9p2000.L,access=any,cache=loose,msize=65536,aname=/srv";
        assert_eq!(options(&request).as_deref(), Ok(expected));
        let expected = "version=9p2000.L,access=any,cache=none";
        assert_eq!(options(&Mount9PRequest::default()).as_deref(), Ok(expected));
    }

    #[test]
    fn bounds() {
        let base = Mount9PRequest::default;
        for bad in [
            Mount9PRequest { cache: 9, ..base() },
            Mount9PRequest {
                msize_bytes: 4095,
                ..base()
            },
            Mount9PRequest {
                msize_bytes: (1 << 20) + 1,
                ..base()
            },
            Mount9PRequest {
                aname: "/a,access=user".into(),
                ..base()
            },
            Mount9PRequest {
                aname: "x".repeat(1025),
                ..base()
            },
        ] {
            assert_eq!(options(&bad), Err(Errno::EINVAL), "{bad:?}");
        }
    }
}
