// SPDX-License-Identifier: Apache-2.0
//! A guest that writes anything into its rings, chains and headers: no panic,
//! no endless work, no stream too many.
#![no_main]

use inn_vsock::fuzzing::Guest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder for the service's socket");
    let mut guest = Guest::new(folder.path()).expect("a guest in fresh memory");
    guest.play(bytes);
});
