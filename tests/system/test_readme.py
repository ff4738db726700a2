# SPDX-License-Identifier: Apache-2.0
"""The README's commands, as they stand there, in their order."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A shell and a console, which wait for a person.
NEEDS_A_PERSON = {".venv/bin/inn run", "inn console web"}

# Hosts need not have curl; the README's users mostly do.
PRELUDE = """
set -e
inn() { .venv/bin/inn "$@"; }
curl() { "$PYTHON" -c '
import sys, urllib.request
print(urllib.request.urlopen("http://" + sys.argv[1], timeout=20).read().decode(), end="")' "$@"; }
"""


def readme_blocks() -> list[list[str]]:
    """The commands of each console block that need nobody, without prompts and comments."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [
        [
            command
            for line in block.splitlines()
            if line.startswith("$ ")
            and (command := re.sub(r"\s{2,}#.*$", "", line[2:])) not in NEEDS_A_PERSON
        ]
        for block in blocks
    ]


@pytest.fixture
def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def run(commands: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", PRELUDE + "\n".join(commands)],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_thirty_seconds_of_use() -> None:
    commands = readme_blocks()[0]
    assert len(commands) >= 6
    done = run([line.replace("; echo $?", " || echo $?") for line in commands])
    assert done.returncode == 0, done.stderr
    assert "out\n7\n" in done.stdout
    assert re.search(r"^[0-9a-f]{64}  -$", done.stdout, re.MULTILINE)
    assert "10.0.2.15/24" in done.stdout
    assert "OK    qemu" in done.stdout


def test_machines_that_stay(free_port: int) -> None:
    commands = [line.replace("8080", str(free_port)) for line in readme_blocks()[1]]
    try:
        done = run(commands)
    finally:
        run(["inn rm -f web"])
    assert done.returncode == 0, done.stderr
    assert "hello\n" in done.stdout
    assert re.search(r"^web +running", done.stdout, re.MULTILINE)
