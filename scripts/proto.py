# SPDX-License-Identifier: Apache-2.0
"""Generate the Python side of proto/*.proto: messages, gRPC stubs and their types.

    python scripts/proto.py [FOLDER]

FOLDER takes the place of `python/`; a unit test compares its content with what
is checked in.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "innkeeper/agent/pb"


def generate(out: Path) -> None:
    """Write the generated files to `out`/innkeeper/agent/pb.

    The proto folder is mapped to the package's path, so that generated files
    import each other as `innkeeper.agent.pb.X_pb2` and need no editing.
    """
    sources = sorted(path.name for path in (ROOT / "proto").glob("*.proto"))
    services = [name for name in sources if "\nservice " in (ROOT / "proto" / name).read_text()]
    bin_dir = Path(sys.executable).parent
    base = [
        "protoc",
        f"--plugin=protoc-gen-mypy={bin_dir / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={bin_dir / 'protoc-gen-mypy_grpc'}",
        f"-I{PACKAGE}={ROOT / 'proto'}",
        f"-I{resources.files('grpc_tools') / '_proto'}",
    ]
    messages = [f"--python_out={out}", f"--mypy_out=quiet:{out}"]
    stubs = [f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"]
    for outputs, names in ((messages, sources), (stubs, services)):
        code = protoc.main([*base, *outputs, *(f"{PACKAGE}/{name}" for name in names)])
        if code != 0:
            raise SystemExit(f"protoc failed with exit code {code}")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "python"
    (target / PACKAGE).mkdir(parents=True, exist_ok=True)
    generate(target)
