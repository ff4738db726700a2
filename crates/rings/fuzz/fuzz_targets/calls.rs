// SPDX-License-Identifier: Apache-2.0
//! Domains that call anything in any order: no panic, and every result, event
//! and message is that of the plain engine of the tests.
//!
//! `cargo +nightly fuzz run calls` goes on from `corpus/calls`, whose files the
//! tests of the crate play too.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/model/mod.rs"]
mod model;

fuzz_target!(|bytes: &[u8]| model::compare::compare_bytes(bytes));
