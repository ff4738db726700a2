# SPDX-License-Identifier: Apache-2.0
"""Whether a port of this host is free, and whose it is where it is not."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from innkeeper.system.sockets import StreamSocket

# The state of a listening TCP socket, and of every bound UDP one (proc_net(5), tcp_states.h).
_WAITS = {"tcp": "0A", "udp": "07"}


def find_port_fault(protocol: str, address: str, port: int) -> str | None:
    """None where a server could listen there now, else the reason in words."""
    try:
        listen_port(protocol, address, port).close()
    except OSError as exc:
        return exc.strerror or str(exc)
    return None


def listen_port(protocol: str, address: str, port: int) -> StreamSocket:
    """A socket on a port of this host, listening where that is TCP; the caller closes it.

    :raise OSError: it is taken, or not ours to bind.
    """
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET, kind)
    try:
        # For asyncio, which takes over what is bound.
        sock.settimeout(0.0)
        if protocol == "tcp":
            # Connections of the last server that linger do not matter.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if protocol == "tcp":
            sock.listen()
    except OSError:
        sock.close()
        raise
    return sock


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
