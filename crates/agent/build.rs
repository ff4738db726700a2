// SPDX-License-Identifier: Apache-2.0
//! Generates the control service from `proto/maitred.proto`: the server for the
//! agent, the client for its tests (which include it from `OUT_DIR/client`).

use std::error::Error;
use std::path::PathBuf;

const PROTO_DIR: &str = "../../proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_DIR}/maitred.proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let client = out.join("client");
    std::fs::create_dir_all(&client)?;
    for (dir, is_client) in [(out, false), (client, true)] {
        tonic_prost_build::configure()
            .build_server(!is_client)
            .build_client(is_client)
            .build_transport(false)
            .out_dir(dir)
            .compile_fds(protox::compile(["maitred.proto"], [PROTO_DIR])?)?;
    }
    Ok(())
}
