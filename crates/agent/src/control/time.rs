// SPDX-License-Identifier: Apache-2.0
//! SetTime: the wall clock.

use std::time::Duration;

use tonic::Status;

use super::proto::SetTimeRequest;
use crate::clock;

/// Sets the wall clock. Zero seconds means that somebody forgot to fill the
/// message in; a guest in 1970 trusts no certificate.
pub fn set(request: SetTimeRequest) -> Result<(), Status> {
    let time = checked(&request).ok_or_else(|| {
        Status::invalid_argument("the time needs seconds > 0 and nanos from 0 to 999999999")
    })?;
    clock::set_wall(time).map_err(|errno| Status::internal(format!("clock_settime: {errno}")))
}

fn checked(request: &SetTimeRequest) -> Option<Duration> {
    let seconds = u64::try_from(request.seconds)
        .ok()
        .filter(|seconds| *seconds > 0)?;
    // The conversion to timespec must not see more than time_t holds; the
    // kernel refuses what is over its own, smaller limit.
    let nanos = u32::try_from(request.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_times() {
        let check = |seconds, nanos| checked(&SetTimeRequest { seconds, nanos });
        assert_eq!(check(5, 7), Some(Duration::new(5, 7)));
        for (seconds, nanos) in [(0, 5), (-1, 0), (i64::MIN, 0), (1, -1), (1, 1_000_000_000)] {
            assert_eq!(check(seconds, nanos), None);
        }
    }
}
