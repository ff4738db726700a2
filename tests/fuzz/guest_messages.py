# SPDX-License-Identifier: Apache-2.0
"""What an agent may say to its host, as any bytes: every reader ends in events or ProtocolError.

Needs `pip install atheris`, libFuzzer for Python; docs/reference/fuzzing.md says how it was run:

    python tests/fuzz/guest_messages.py FOLDER -max_total_time=600
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["innkeeper"]):
    from innkeeper.agent import announce, vsh
    from innkeeper.agent.frames import encode_frame
    from innkeeper.errors import ProtocolError
    from innkeeper.keeper import guestlog
    from innkeeper.model.machine import Command

PIECES = (1, 3, 64, 1 << 20)


class Transport(asyncio.Transport):
    """The host's end of a connection; what is written to it is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert data

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_write_buffer_size(self) -> int:
        return 0


def stream(data: bytes) -> Iterator[bytes]:
    """Bytes as they are, or messages of a length each; in pieces of some size."""
    whole, size = data[2:], PIECES[data[0] >> 4 & 3]
    if data[0] & 1:
        framed, left = b"", whole
        while left:
            framed += encode_frame(left[1 : 1 + left[0]])
            left = left[1 + left[0] :]
        whole = framed
    for start in range(0, len(whole), size):
        yield whole[start : start + size]


def session(data: bytes) -> None:
    """The output and the end of a command."""
    protocol = vsh.SessionProtocol(Command(argv=("true",)))
    with contextlib.suppress(ProtocolError):
        for piece in stream(data):
            for event in protocol.receive(piece):
                assert not isinstance(event, vsh.Output) or event.data


class Readers:
    """The keeper's two servers, without their sockets."""

    def __init__(self, folder: Path) -> None:
        self._sockets = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2)]
        self._loop: Any = asyncio.get_running_loop()
        self._log = guestlog.GuestLog(folder / "guest.log")
        self._logs = guestlog.GuestLogServer(self._sockets[0], self._log)

    def announcement(self, data: bytes) -> None:
        """Hello, failures, ports, disks."""
        told: list[object] = []
        server = announce.AnnounceServer(
            self._sockets[1],
            on_ports=told.append,
            on_disks=told.append,
            relay_logs=True,
        )
        self._feed(announce._Connection(server), data)
        assert len(server.failures) <= 1000

    def log(self, data: bytes) -> None:
        """Messages of the guest's kernel and programs."""
        self._feed(guestlog._Connection(self._logs, self._log), data)

    def _feed(self, connection: asyncio.Protocol, data: bytes) -> None:
        transport = Transport()
        connection.connection_made(transport)
        for piece in stream(data):
            if transport.closed:
                break
            connection.data_received(piece)
        connection.connection_lost(None)
        # Nobody runs the loop, which would forget them.
        self._loop._scheduled.clear()


async def fuzz(folder: Path) -> None:
    """Hand the inputs over to the readers, one after the other; does not return."""
    readers = Readers(folder)
    chosen: tuple[Callable[[bytes], None], ...] = (session, readers.announcement, readers.log)

    def one(data: bytes) -> None:
        if len(data) > 1:
            chosen[data[1] % len(chosen)](data)

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(fuzz(Path(name)))
