// SPDX-License-Identifier: Apache-2.0
//! A 9P client that sends anything: no panic, whole answers, and nothing outside
//! of what is served is read or changed.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzzed/mod.rs"]
mod fuzzed;

fuzz_target!(|bytes: &[u8]| {
    fuzzed::play(bytes);
});
