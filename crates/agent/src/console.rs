// SPDX-License-Identifier: Apache-2.0
//! Lines for whoever watches the guest's console (or the service's log).

use std::fmt::Display;
use std::io::Write;

/// Says one line. A console that cannot be written to is nobody's failure.
pub fn say(line: impl Display) {
    // One write per line: lines of the kernel and of sessions stay apart.
    let _ = std::io::stderr().write_all(format!("inn-agent: {line}\n").as_bytes());
}
