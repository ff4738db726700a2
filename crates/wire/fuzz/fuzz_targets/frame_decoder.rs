// SPDX-License-Identifier: Apache-2.0
//! Any bytes, in any pieces: no panic, and the same frames for every split.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/fuzzed/mod.rs"]
mod fuzzed;

fuzz_target!(|input: &[u8]| fuzzed::play(input));
