# SPDX-License-Identifier: Apache-2.0
"""What the tests of SSH share: OpenSSH's programs and a guest, in processes of their own."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

NAME = "sshbox"
HOST = f"{NAME}.inn"
_LIFE_LIMIT_S = 100.0

Done = subprocess.CompletedProcess[bytes]
Ssh = Callable[..., Done]
Eventually = Callable[..., None]


@contextlib.contextmanager
def running(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A client in the background; it is told to end afterwards.

    It is killed after a while, so that nobody waits for ever for what it says.
    """
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    watchdog = threading.Timer(_LIFE_LIMIT_S, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        watchdog.join()
        process.terminate()
        # OpenSSH's client now and then ignores it for longer than a test should take.
        # That is its own affair; our side has to end with it, which the leak guard sees.
        try:
            process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def proxy_of(process: subprocess.Popen[bytes]) -> Path:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (proxy,) = [
        Path(f"/proc/{pid}")
        for pid in children
        if b"ssh-proxy" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return proxy
