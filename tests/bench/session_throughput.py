# SPDX-License-Identifier: Apache-2.0
"""Throughput of sessions over an agent's Unix socket, with files and pipes.

`python tests/bench/session_throughput.py target/guest/.../inn-agent [MIB]`
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
DRIVER = HERE.parent / "contract" / "session_driver.py"


def measure(
    name: str, size_mib: int, sessions: Path, script: str, *, stdin: int, stdout: int
) -> None:
    arguments = f'{{"argv": ["/bin/sh", "-c", "{script}"]}}'
    begun = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, str(DRIVER), str(sessions), arguments], stdin=stdin, stdout=stdout
    ) as process:
        if process.stdout is not None:
            while os.read(process.stdout.fileno(), 1 << 20):
                pass
        code = process.wait()
    took_s = time.perf_counter() - begun
    line = f"{name:<24} {size_mib / took_s:8.1f} MiB/s  {took_s:6.2f} s  exit code {code}\n"
    sys.stdout.write(line)


def main() -> None:
    agent, size_mib = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
    size = size_mib << 20
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        big = folder / "big"
        big.write_bytes(bytes(size))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(folder / "7777.sock"))
            listener.listen()
            with subprocess.Popen([agent, "serve", "--unix-dir", name]) as process:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    cases(folder / "9001.sock", big, size_mib)
                    process.kill()


def cases(sessions: Path, big: Path, size_mib: int) -> None:
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    measure("start-up", 0, sessions, "true", stdin=null, stdout=null)
    with big.open("rb") as file:
        measure(
            "file to guest", size_mib, sessions, "cat >/dev/null", stdin=file.fileno(), stdout=null
        )
    with subprocess.Popen(["cat", str(big)], stdout=pipe) as source:
        assert source.stdout is not None
        fd = source.stdout.fileno()
        measure("pipe to guest", size_mib, sessions, "cat >/dev/null", stdin=fd, stdout=null)
    emit = f"head -c {size_mib}M /dev/zero"
    measure("guest to pipe", size_mib, sessions, emit, stdin=null, stdout=pipe)
    with (big.parent / "out").open("wb") as out:
        measure("guest to file", size_mib, sessions, emit, stdin=null, stdout=out.fileno())
    with big.open("rb") as file:
        measure("file through guest", size_mib, sessions, "cat", stdin=file.fileno(), stdout=pipe)


if __name__ == "__main__":
    main()
