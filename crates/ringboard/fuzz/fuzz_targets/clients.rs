// SPDX-License-Identifier: Apache-2.0
//! A guest's program, the host's and a peer's keeper that send any frames in any
//! order: no panic, nothing but well-formed answers, and accounts that are right.
#![no_main]

use inn_ringboard::fuzzing::play;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| assert!(play(script)));
