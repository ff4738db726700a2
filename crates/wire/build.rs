// SPDX-License-Identifier: Apache-2.0
//! Generates the message types from `proto/`.

use std::error::Error;

const PROTO_DIR: &str = "../../proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_DIR}/vsh.proto");
    println!("cargo:rerun-if-changed={PROTO_DIR}/announce.proto");
    let descriptors = protox::compile(["vsh.proto", "announce.proto"], [PROTO_DIR])?;
    let mut config = prost_build::Config::new();
    // Payloads are slices of the receive buffer, not copies of it.
    config.bytes(["."]);
    config.compile_fds(descriptors)?;
    Ok(())
}
