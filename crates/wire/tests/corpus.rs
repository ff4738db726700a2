// SPDX-License-Identifier: Apache-2.0
//! What the fuzzer found, on any compiler.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fuzzed;

#[test]
fn streams_that_the_fuzzer_found() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/frame_decoder");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        fuzzed::play(&std::fs::read(entry.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 20, "{count}");
}
