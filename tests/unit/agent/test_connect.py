# SPDX-License-Identifier: Apache-2.0
"""The CONNECT handshake."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from innkeeper.agent.connect import connect_port
from innkeeper.errors import GuestError, PathTooLong, ProtocolError


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="inn-", dir="/tmp") as name:
        yield Path(name) / "vsock.sock"


@contextmanager
def device(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Serves one connection in a thread."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b"CONNECT 9001\n"
                serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            thread.join()


def void(_: object) -> None:
    """For a lambda whose value does not matter."""


@pytest.mark.parametrize("answer", [b"OK 1\n", b"OK 4294967295\n"])
def test_what_follows_the_line_belongs_to_the_stream(path: Path, answer: bytes) -> None:
    with device(path, lambda end: end.sendall(answer + b"stream\nOK")):
        with connect_port(path, 9001, timeout_s=5) as sock:
            assert sock.recv(100, socket.MSG_WAITALL) == b"stream\nOK"
            assert sock.gettimeout() is None


def test_refused(path: Path) -> None:
    with device(path, lambda _: None), pytest.raises(GuestError, match="refused port 9001"):
        connect_port(path, 9001, timeout_s=5)


@pytest.mark.parametrize(
    "answer", [b"NO\n", b"OK\n", b"OK x\n", b"OK 42949672951", b"x" * 1000, b"OK 1 \n", b"\n"]
)
def test_garbage(path: Path, answer: bytes) -> None:
    with device(path, lambda end: end.sendall(answer)), pytest.raises(ProtocolError):
        connect_port(path, 9001, timeout_s=5)


def test_silence(path: Path) -> None:
    asked = threading.Event()
    with device(path, lambda _: void(asked.wait(5))):
        with pytest.raises(GuestError, match=r"did not answer port 9001 within 0.05 s"):
            connect_port(path, 9001, timeout_s=0.05)
        asked.set()


def test_no_guest(path: Path) -> None:
    with pytest.raises(GuestError, match="cannot reach the guest"):
        connect_port(path, 9001, timeout_s=5)


def test_path_too_long() -> None:
    with pytest.raises(PathTooLong):
        connect_port(Path("/" + "x" * 107), 9001, timeout_s=5)
