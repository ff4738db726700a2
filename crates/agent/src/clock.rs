// SPDX-License-Identifier: Apache-2.0
//! The guest's clocks.

use std::time::Duration;

use nix::time::ClockId;

/// `CLOCK_BOOTTIME`: time since the kernel started, suspend included.
pub fn since_boot() -> Duration {
    read(ClockId::CLOCK_BOOTTIME)
}

/// `CLOCK_REALTIME`: wall clock time since the epoch.
pub fn wall() -> Duration {
    read(ClockId::CLOCK_REALTIME)
}

/// Sets the wall clock.
pub fn set_wall(since_epoch: Duration) -> nix::Result<()> {
    ClockId::CLOCK_REALTIME.set_time(since_epoch.into())
}

/// Nanoseconds for a message; saturates in the year 2554.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn read(clock: ClockId) -> Duration {
    // Both clocks exist on every kernel since 2.6.39, so an error is no case.
    clock.now().map(Duration::from).unwrap_or_default()
}
