// SPDX-License-Identifier: Apache-2.0
//! Takes the shared objects for guests along, and generates the control service from `proto/maitred.proto`: the server for the
//! agent, the client for its tests (which include it from `OUT_DIR/client`).

use std::error::Error;
use std::path::{Path, PathBuf};

const PROTO_DIR: &str = "../../proto";

/// Made by scripts/setup.d/build.sh before the agent is.
const LIBRARIES_DIR: &str = "../../python/innkeeper/_guest";
const LIBRARIES: &[&str] = &["libinn_preload.so", "libinn_rings.so"];

/// An agent for tests needs none: what was not built is empty.
fn take_libraries(out: &Path) -> std::io::Result<()> {
    for name in LIBRARIES {
        let source = Path::new(LIBRARIES_DIR).join(name);
        println!("cargo:rerun-if-changed={}", source.display());
        let content = std::fs::read(source).unwrap_or_default();
        std::fs::write(out.join(name), content)?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_DIR}/maitred.proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    take_libraries(&out)?;
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
