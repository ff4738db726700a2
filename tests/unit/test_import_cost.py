# SPDX-License-Identifier: Apache-2.0
"""A cold start of the command imports nothing heavy. Counted, not timed."""

from __future__ import annotations

import subprocess
import sys

import innkeeper

HEAVY = {
    "asyncio",
    "asyncssh",
    "click",
    "google.protobuf",
    "grpc",
    "innkeeper._core",
    "msgspec",
    "qemu.qmp",
}
# innkeeper, _version, __main__, and room for two.
MAX_OWN_MODULES = 5


def test_the_version_is_told_without_heavy_imports() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "innkeeper", "--version"],
        capture_output=True,
        check=True,
        text=True,
    )
    assert innkeeper.__version__ in result.stdout
    # "import time: self [us] | cumulative | imported package"
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not imported & HEAVY
    own = {name for name in imported if name.split(".")[0] == "innkeeper"}
    assert len(own) <= MAX_OWN_MODULES, sorted(own)


def test_a_program_without_asyncio_is_spared_it() -> None:
    program = "import sys, innkeeper; innkeeper.Machine; print('asyncio' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert result.stdout == "False\n"
