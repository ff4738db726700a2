# SPDX-License-Identifier: Apache-2.0
"""What is generated and checked in is what the generator makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "innkeeper/agent/pb"


def test_messages_are_those_of_the_proto_folder(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "proto.py", tmp_path], check=True)
    fresh = {path.name: path.read_bytes() for path in (tmp_path / PACKAGE).glob("*_pb2*")}
    kept = {path.name: path.read_bytes() for path in (ROOT / "python" / PACKAGE).glob("*_pb2*")}
    assert sorted(fresh) == sorted(kept)
    stale = [name for name, content in fresh.items() if kept[name] != content]
    assert not stale, "run `make proto`"
