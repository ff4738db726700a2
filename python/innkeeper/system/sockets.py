# SPDX-License-Identifier: Apache-2.0
"""Unix sockets: bound by their owner, never world-writable, paths checked."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from pathlib import Path

from innkeeper.errors import HostError, PathTooLong

# For the type hints of the packages that may not import `socket`.
StreamSocket = socket.socket

# struct sockaddr_un has 108 bytes with the final zero (unix(7)).
SUN_PATH_MAX = 107


def check_socket_path(path: Path) -> Path:
    """The path itself, if a Unix socket can be bound to it.

    :raise PathTooLong: it has more than 107 bytes.
    """
    length = len(os.fsencode(path))
    if length > SUN_PATH_MAX:
        raise PathTooLong(
            f"the socket path {path} has {length} bytes; a Unix socket takes {SUN_PATH_MAX}",
            stage="plan",
            fix="set INN_RUNTIME_DIR to a shorter folder, or give a shorter --name",
        )
    return path


def listen_unix(path: Path, *, backlog: int = 1024) -> socket.socket:
    """A listening Unix stream socket at `path`, mode 0600. The caller closes and unlinks it.

    :param backlog: clients that wait for accept. More of them fail at once if they
        are non-blocking (asyncio's are), so it is what the vsock device admits.

    :raise PathTooLong: as :func:`check_socket_path`.
    :raise HostError: it cannot be bound.
    """
    check_socket_path(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(os.fspath(path))
        path.chmod(0o600)
        sock.listen(backlog)
    except OSError as exc:
        sock.close()
        raise HostError(f"cannot listen on {path}: {exc.strerror}", stage="sockets") from exc
    return sock


def stream_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected Unix stream sockets; the caller closes both."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


def loopback_addresses() -> tuple[str, ...]:
    """The addresses of this host's loopback: 127.0.0.1, and ::1 where there is IPv6."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
        sock.bind(("::1", 0))
        return ("127.0.0.1", "::1")
    return ("127.0.0.1",)


def adopt_stream(fd: int) -> socket.socket:
    """A socket object that owns an inherited descriptor of a connected stream."""
    return socket.socket(fileno=fd)


def connect_unix(path: Path, *, timeout_s: float) -> socket.socket:
    """A connected blocking stream with the given timeout set; the caller closes it.

    :raise OSError: as connect(2).
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(os.fspath(path))
    except OSError:
        sock.close()
        raise
    return sock


def peek(sock: StreamSocket, size_bytes: int) -> bytes:
    """What would be read next, at most so much of it; b"" at the end.

    :raise OSError: as recv(2); `TimeoutError` after the socket's timeout.
    """
    return sock.recv(size_bytes, socket.MSG_PEEK)


def wait_readable(sock: StreamSocket, timeout_s: float | None) -> bool:
    """True when there is something to read (also the end), False when the time is over."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(None if timeout_s is None else timeout_s * 1000))


def hang_up(sock: socket.socket, *, timeout_s: float) -> None:
    """Say that nothing more follows, and wait until the peer has closed too.

    A Unix socket that is closed with unread bytes in it resets the connection, and the
    peer may lose what was sent just before. Raises nothing: the peer may be gone.
    """
    deadline = time.monotonic() + timeout_s
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while (left_s := deadline - time.monotonic()) > 0 and wait_readable(sock, left_s):
            if not sock.recv(65536):
                return
