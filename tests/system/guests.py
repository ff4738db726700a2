# SPDX-License-Identifier: Apache-2.0
"""What the system tests share: `inn` in a process of its own, and its result."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# A guest under emulation on a busy two-core host; a hang is ended by pytest-timeout.
BOOT_LIMIT_S = 90

INN = (sys.executable, "-m", "innkeeper")


@dataclass(frozen=True)
class Result:
    code: int
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def error(self) -> str:
        return self.stderr.decode("utf-8", "replace")


Inn = Callable[..., Result]

Background = Callable[..., subprocess.Popen[bytes]]

Eventually = Callable[[Callable[[], bool]], None]


def record(inn: Inn, name: str) -> dict[str, Any]:
    """What `inn inspect` tells of a machine's life."""
    done = inn("inspect", name, "--format", "json")
    assert done.code == 0, done.error
    value = json.loads(done.stdout)["record"]
    assert isinstance(value, dict)
    return value


class Running:
    """An `inn` that runs while a test does things to it."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, runtime_dir: Path) -> None:
        self.process = process
        self.folder = runtime_dir / name

    def state(self) -> dict[str, object]:
        """The guest's state file, {} where there is none yet."""
        with contextlib.suppress(OSError, ValueError):
            value = json.loads((self.folder / "state.json").read_bytes())
            return value if isinstance(value, dict) else {}
        return {}

    def wait_state(self, *states: str) -> dict[str, object]:
        """The state file, once its state is one of these."""
        deadline = time.monotonic() + BOOT_LIMIT_S
        while (value := self.state()).get("state") not in states:
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"never in state {states}: {value}, exit code {self.process.poll()}")
            time.sleep(0.01)
        return value

    def wait_line(self, line: bytes) -> None:
        """Read stdout up to a line."""
        assert self.process.stdout is not None
        for read in self.process.stdout:
            if read == line:
                return
        _, _, error = self.finish()
        pytest.fail(f"stdout ended without {line!r}: {error}")

    def finish(self) -> tuple[int, bytes, str]:
        """Wait for the end: exit code, rest of stdout, stderr."""
        out, err = self.process.communicate(timeout=BOOT_LIMIT_S)
        return self.process.returncode, out, err.decode("utf-8", "replace")


Start = Callable[..., Running]


def alive(pid: object) -> bool:
    """True while a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(") ")[2][:1] != "Z"
