// SPDX-License-Identifier: Apache-2.0
//! AttachShares and DetachShare: folders of the host that come and go while the
//! guest runs.

use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use tonic::Status;

use super::proto::{
    AttachSharesRequest, AttachSharesResponse, DetachShareRequest, DetachShareResponse,
    ShareHolder, SharePlace,
};
use super::targets::{DEFAULT_MODE, check};
use crate::agent::Agent;
use crate::holders;
use crate::shares::{self, Place, Shares, Transport};

/// Mounts shares.
pub async fn attach(
    agent: &Arc<Agent>,
    request: AttachSharesRequest,
) -> Result<AttachSharesResponse, Status> {
    let transport = Transport::parse(&request.transport)
        .ok_or_else(|| Status::invalid_argument("no such transport"))?;
    let places: Option<Vec<_>> = request.places.iter().map(place).collect();
    let places = places.ok_or_else(|| Status::invalid_argument("no such place"))?;
    let shares = Shares { transport, places };
    let agent = Arc::clone(agent);
    let anew = request.anew;
    let error = apart(move || attach_now(&agent, &shares, anew)).await?;
    Ok(AttachSharesResponse {
        error: error.unwrap_or_default(),
    })
}

fn attach_now(agent: &Agent, shares: &Shares, anew: bool) -> Option<String> {
    if anew {
        return shares::reattach(shares)
            .err()
            .map(|error| error.to_string());
    }
    for place in &shares.places {
        if let Err(errno) = agent.targets.create(Path::new(&place.path), DEFAULT_MODE) {
            return Some(format!("make {}: {}", place.path, errno.desc()));
        }
    }
    let error = shares::attach(shares).err()?;
    for place in &shares.places {
        agent.targets.remove(Path::new(&place.path));
    }
    Some(error.to_string())
}

/// Unmounts a share.
pub async fn detach(
    agent: &Arc<Agent>,
    request: DetachShareRequest,
) -> Result<DetachShareResponse, Status> {
    let place = request.place.as_ref().and_then(place);
    let place = place.ok_or_else(|| Status::invalid_argument("no such place"))?;
    let agent = Arc::clone(agent);
    apart(move || detach_now(&agent, &place, &request)).await
}

fn detach_now(agent: &Agent, place: &Place, request: &DetachShareRequest) -> DetachShareResponse {
    let Err(errno) = shares::detach(place, request.force, request.kill) else {
        agent.targets.remove(Path::new(&place.path));
        return DetachShareResponse::default();
    };
    let holding = match errno {
        Errno::EBUSY => holders::find(&[&place.path]),
        _ => Vec::new(),
    };
    let holders = holding.into_iter().map(|holder| ShareHolder {
        pid: holder.pid,
        name: holder.name,
        what: holder.what,
    });
    DetachShareResponse {
        error: errno as i32,
        holders: holders.collect(),
    }
}

fn place(place: &SharePlace) -> Option<Place> {
    check(&place.path).ok()?;
    Place::new(&place.key, &place.path)
}

/// Runs what waits for the host's server on a thread of its own.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Status::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let made = |key: &str, path: &str| {
            place(&SharePlace {
                key: key.into(),
                path: path.into(),
            })
        };
        assert!(made("0a1b", "/mnt/x y").is_some());
        for (key, path) in [
            ("", "/mnt"),
            ("../x", "/mnt"),
            ("0a", "mnt"),
            ("0a", "/mnt/../etc"),
            ("0a", "/a\0b"),
        ] {
            assert_eq!(made(key, path), None, "{key} {path}");
        }
    }
}
