// SPDX-License-Identifier: Apache-2.0
//! How readily a process that wakes up takes the CPU from the one that runs.

use std::fs::OpenOptions;
use std::io::{self, Write};

use nix::mount::{MsFlags, mount, umount};

/// As the profile throughput-performance of tuned has it; the kernel's own is 1 ms
/// for each power of two of CPUs.
const WAKEUP_GRANULARITY_NS: &[u8] = b"15000000\n";

const BEFORE_5_13: &str = "/proc/sys/kernel/sched_wakeup_granularity_ns";
const DEBUGFS: &str = "/sys/kernel/debug";
const BEFORE_6_6: &str = "/sys/kernel/debug/sched/wakeup_granularity_ns";

/// Lets the kernel's worker finish with the packets it has before their reader runs.
///
/// A guest's vsock packets have 4 KiB at most. The reader of a stream slept before
/// it got the first of them, so that CFS lets it preempt the worker at each, and a
/// guest of one CPU changes contexts 150,000 times for a GiB. The scheduler of Linux
/// 6.6 lets the worker run on by itself and has no such setting. Nothing depends on
/// this: where it cannot be set, streams are slower.
pub fn finish_before_waking() {
    if set(BEFORE_5_13).is_ok() {
        return;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if mount(
        Some("debugfs"),
        DEBUGFS,
        Some("debugfs"),
        flags,
        None::<&str>,
    )
    .is_ok()
    {
        let _ = set(BEFORE_6_6);
        // It shows the kernel's insides; whoever wants it mounts it.
        let _ = umount(DEBUGFS);
    }
}

fn set(path: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(WAKEUP_GRANULARITY_NS)
}
