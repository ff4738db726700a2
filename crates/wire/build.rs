// SPDX-License-Identifier: Apache-2.0
//! Generates the message types from `proto/`.

use std::error::Error;

const PROTO_DIR: &str = "../../proto";

const FILES: [&str; 4] = [
    "vsh.proto",
    "announce.proto",
    "forward.proto",
    "guestlog.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={PROTO_DIR}/{file}");
    }
    let descriptors = protox::compile(FILES, [PROTO_DIR])?;
    let mut config = prost_build::Config::new();
    // Payloads are slices of the receive buffer, not copies of it.
    config.bytes(["."]);
    config.compile_fds(descriptors)?;
    Ok(())
}
