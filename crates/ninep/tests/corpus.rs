// SPDX-License-Identifier: Apache-2.0
//! What the fuzzer found, on any compiler.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

mod fuzzed;

#[test]
fn clients_that_the_fuzzer_found() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/client");
    let mut answers = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        answers += fuzzed::play(&std::fs::read(entry.unwrap().path()).unwrap());
    }
    assert!(answers > 100, "{answers}");
}
