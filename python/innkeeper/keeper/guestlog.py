# SPDX-License-Identifier: Apache-2.0
"""The guest's own log, `guest.log` beside the machine: what its kernel and programs report.

The agent sends it to host port 9999 (`proto/guestlog.proto`). A line is a JSON
object::

    {
        "at": 1763693567.1,
        "source": "user",
        "severity": 5,
        "facility": 1,
        "guest_at": 1763693567.0,
        "text": "root: hello",
    }
    {"at": 1763693568.0, "event": "lost", "count": 7, "text": "[inn: 7 records lost]"}

`at` is the host's time, so that lines stand in order whatever a guest says.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import msgspec
from google.protobuf.message import DecodeError

from innkeeper.agent.frames import FrameDecoder
from innkeeper.agent.pb import guestlog_pb2
from innkeeper.errors import ProtocolError
from innkeeper.system.rotate import LIMIT_BYTES, RotatingFile
from innkeeper.system.sockets import StreamSocket

# The host's port, where the agent dials.
GUESTLOG_PORT = 9999
_CONTENT_LIMIT = 1024
# The agent sends at most 1200; whatever sends more is no agent of ours.
_RECORDS_A_SECOND = 2000
_SOURCES = {guestlog_pb2.SOURCE_KERNEL: "kernel", guestlog_pb2.SOURCE_USER: "user"}


def show(content: bytes) -> str:
    r"""A record's text, bounded, what cannot be printed made visible as `\x1b`."""
    text = content[:_CONTENT_LIMIT].decode("utf-8", "backslashreplace")
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class GuestLog:
    """The file. Records over the limit of one second are counted, not written."""

    def __init__(self, path: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._file = RotatingFile(
            path,
            note=lambda count: _line(event="lost", text=f"[inn: {count} bytes lost]"),
            limit_bytes=limit_bytes,
        )
        self._second = 0
        self._room = 0
        self._lost = 0

    def add(self, batch: guestlog_pb2.Batch) -> None:
        """Write a batch, as much of it as this second has room for."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._room = second, _RECORDS_A_SECOND
        taken = batch.records[: self._room]
        self._room -= len(taken)
        self._lost += batch.lost
        lines = [_line(**_describe(record)) for record in taken]
        if self._lost and (lines or self._room):
            lines.insert(0, self._tell_lost())
        self._lost += len(batch.records) - len(taken)
        self._file.write(b"".join(lines))

    def close(self) -> None:
        """Tell what was lost last. Idempotent."""
        if self._lost:
            self._file.write(self._tell_lost())
        self._file.close()

    def _tell_lost(self) -> bytes:
        count, self._lost = self._lost, 0
        return _line(event="lost", count=count, text=f"[inn: {count} records lost]")


def _describe(record: guestlog_pb2.Record) -> dict[str, Any]:
    return {
        "source": _SOURCES.get(record.source, "unknown"),
        "severity": min(record.severity, 7),
        "facility": min(record.facility, 23),
        "guest_at": round(record.timestamp_ns / 1e9, 6),
        "text": show(record.content),
    }


def _line(**values: Any) -> bytes:
    return msgspec.json.encode({"at": round(time.time(), 6), **values}) + b"\n"


class GuestLogServer:
    """Receives the log on a bound and listening socket, which it then owns."""

    def __init__(self, sock: StreamSocket, log: GuestLog) -> None:
        self._sock = sock
        self._log = log
        loop = asyncio.get_running_loop()
        serving = loop.create_unix_server(lambda: _Connection(self, log), sock=sock)
        self._serving: asyncio.Task[asyncio.AbstractServer] | None = loop.create_task(serving)
        self.current: _Connection | None = None

    async def close(self) -> None:
        """Stop, and close the file. Idempotent."""
        if self._serving is not None:
            serving, self._serving = self._serving, None
            (await serving).close()
        if self.current is not None:
            self.current.drop()
        self._sock.close()
        self._log.close()
        # The transports close their sockets in the loop's next round.
        await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    """One connection of an agent; garbage costs it the connection."""

    def __init__(self, server: GuestLogServer, log: GuestLog) -> None:
        self._server = server
        self._log = log
        self._decoder = FrameDecoder()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        # The agent was restarted, or the guest restored.
        previous, self._server.current = self._server.current, self
        if previous is not None:
            previous.drop()

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        try:
            for payload in self._decoder.feed(data):
                self._log.add(guestlog_pb2.Batch.FromString(payload))
        except (ProtocolError, DecodeError):
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._transport = None
        if self._server.current is self:
            self._server.current = None

    def drop(self) -> None:
        """Close the connection now."""
        if self._transport is not None:
            self._transport.abort()
