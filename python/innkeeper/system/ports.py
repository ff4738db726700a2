# SPDX-License-Identifier: Apache-2.0
"""Whether a port of this host is free, and whose it is where it is not."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

# The state of a listening TCP socket, and of every bound UDP one (proc_net(5), tcp_states.h).
_WAITS = {"tcp": "0A", "udp": "07"}


def find_port_fault(protocol: str, address: str, port: int) -> str | None:
    """None where a server could listen there now, else the reason in words."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as sock:
        if protocol == "tcp":
            # Connections of the last server that linger do not matter.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, port))
            if protocol == "tcp":
                sock.listen(1)
        except OSError as exc:
            return exc.strerror or str(exc)
    return None


def find_port_holder(protocol: str, port: int) -> str:
    """The process that listens on a port, as "process 12 (nginx)"; empty where nobody tells."""
    inodes = {
        f"socket:[{fields[9]}]"
        for family in ("", "6")
        for fields in _sockets(f"/proc/net/{protocol}{family}")
        if fields[3] == _WAITS[protocol] and int(fields[1].rpartition(":")[2], 16) == port
    }
    for folder in Path("/proc").iterdir() if inodes else ():
        # Those of other users are not shown to us, and processes come and go.
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and any(
                os.readlink(fd) in inodes for fd in (folder / "fd").iterdir()
            ):
                return f"process {folder.name} ({(folder / 'comm').read_text().strip()})"
    return ""


def _sockets(path: str) -> list[list[str]]:
    with contextlib.suppress(OSError):
        return [line.split() for line in Path(path).read_text().splitlines()[1:]]
    return []
