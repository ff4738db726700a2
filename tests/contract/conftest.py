# SPDX-License-Identifier: Apache-2.0
"""Peers of the contract tests: the stand-in and the real agent, behind the same sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
AGENT = HERE.parents[1] / "target/guest/x86_64-unknown-linux-gnu/guest/inn-agent"


@dataclass(frozen=True)
class Peer:
    """A running agent or stand-in."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def sessions(self) -> Path:
        return self.folder / "9001.sock"

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(self.sessions))
        return sock

    @contextlib.contextmanager
    def start(self, *argv: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A client process in a session; ended at the end of the block."""
        popen = {name: options.pop(name, subprocess.PIPE) for name in ("stdin", "stdout", "stderr")}
        driver = [sys.executable, str(HERE / "session_driver.py"), str(self.sessions)]
        popen["start_new_session"] = options.pop("start_new_session", False)
        popen["preexec_fn"] = options.pop("preexec_fn", None)
        arguments = json.dumps({"argv": argv, **options})
        with subprocess.Popen([*driver, arguments], **popen) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()


@contextlib.contextmanager
def serving(*program: str) -> Iterator[Peer]:
    """A peer that has announced itself; ended at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="inn-", dir="/tmp") as name:
        folder = Path(name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(folder / "7777.sock"))
            listener.listen()
            listener.settimeout(20)
            with subprocess.Popen([*program, "serve", "--unix-dir", name]) as process:
                try:
                    announcement, _ = listener.accept()
                    with announcement:
                        announcement.settimeout(20)
                        assert announcement.recv(65536), "no Hello came"
                        yield Peer(folder, process)
                finally:
                    process.kill()


def agent_program() -> str:
    """The real agent; skips the test where it has not been built."""
    if not AGENT.exists():
        pytest.skip(f"no agent at {AGENT.relative_to(HERE.parents[1])}; `make setup` builds it")
    return str(AGENT)


@pytest.fixture(scope="session", params=["fake", "agent"])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    """Where sessions can be run."""
    fake = (sys.executable, str(HERE / "fake_vshd.py"))
    with serving(*(fake if request.param == "fake" else (agent_program(),))) as made:
        yield made


@pytest.fixture
def mortal_agent() -> Iterator[Peer]:
    """A real agent of one test, which may kill it."""
    with serving(agent_program()) as made:
        yield made
