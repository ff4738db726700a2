// SPDX-License-Identifier: Apache-2.0
//! Domains that call anything in any order: no panic, and every result, event
//! and message is that of the plain engine of the tests.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/model/mod.rs"]
mod model;

fuzz_target!(|bytes: &[u8]| {
    if let Some((percent, script)) = bytes.split_first() {
        model::compare::compare(percent % 100 + 1, &model::script::decode(script));
    }
});
