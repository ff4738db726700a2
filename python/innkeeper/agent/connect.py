# SPDX-License-Identifier: Apache-2.0
"""Connecting to a guest's vsock port through its Unix socket.

The convention of Firecracker and Cloud Hypervisor: `CONNECT <port>`, a line
`OK <n>` back, then the stream. A refused port closes without an `OK`.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from innkeeper.errors import GuestError, ProtocolError
from innkeeper.system.pump import StreamSocket
from innkeeper.system.sockets import check_socket_path, connect_unix, peek

# "OK " and a u32.
_ANSWER_LIMIT = 14
_ANSWER = re.compile(rb"OK [0-9]{1,10}\n")


def connect_port(vsock_path: Path, port: int, *, timeout_s: float) -> StreamSocket:
    """A stream to a port of the guest; the caller closes it.

    :raise GuestError: there is no guest, it refused the port or did not answer.
    :raise ProtocolError: the answer is none.
    """
    check_socket_path(vsock_path)
    deadline = time.monotonic() + timeout_s
    try:
        sock = connect_unix(vsock_path, timeout_s=timeout_s)
    except TimeoutError as exc:
        raise _no_answer(port, timeout_s) from exc
    except OSError as exc:
        raise GuestError(
            f"cannot reach the guest at {vsock_path}: {exc.strerror}",
            stage="connect",
            fix="`inn ls` shows the running guests",
        ) from exc
    try:
        sock.sendall(b"CONNECT %d\n" % port)
        line = _read_line(sock, deadline)
    except TimeoutError as exc:
        sock.close()
        raise _no_answer(port, timeout_s) from exc
    except OSError:
        line = b""  # reset by the device: refused
    except BaseException:
        sock.close()
        raise
    if _ANSWER.fullmatch(line):
        sock.settimeout(None)
        return sock
    sock.close()
    if line:
        raise ProtocolError(f"the device answered {line!r} to CONNECT {port}", stage="connect")
    raise GuestError(f"the guest refused port {port}", stage="connect")


def _no_answer(port: int, timeout_s: float) -> GuestError:
    return GuestError(
        f"the guest did not answer port {port} within {timeout_s:g} s", stage="connect"
    )


def _read_line(sock: StreamSocket, deadline: float) -> bytes:
    """The line with its end and no more: what follows belongs to the stream."""
    line = b""
    while len(line) < _ANSWER_LIMIT and not line.endswith(b"\n"):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        sock.settimeout(left_s)
        seen = peek(sock, _ANSWER_LIMIT - len(line))
        if not seen:
            return b""
        head, end, _ = seen.partition(b"\n")
        line += sock.recv(len(head) + len(end))
    return line
