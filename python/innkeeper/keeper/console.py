# SPDX-License-Identifier: Apache-2.0
"""The guest's serial console: always drained, remembered, copied, and shown to the attached.

A guest writes what and as much as it likes here. Memory is bounded by
`_REMEMBERED_BYTES`; control bytes are escaped before a person sees them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from pathlib import Path
from typing import Protocol

from innkeeper.agent.text import escape_line, plain_line
from innkeeper.keeper.audience import Audience
from innkeeper.keeper.logs import FROM_GUEST, FROM_KEEPER
from innkeeper.system.files import open_append
from innkeeper.system.rotate import LIMIT_BYTES, RotatingFile
from innkeeper.system.sockets import StreamSocket

_REMEMBERED_BYTES = 64 * 1024
_READ_BYTES = 16 * 1024
# A line without an end is broken here in the log.
_LINE_BYTES = 4096

_PANIC = re.compile(rb"Kernel panic - not syncing: [^\r\n]*")


class Copy(Protocol):
    """Where the console's bytes go. Neither method raises for what a host can cause."""

    def write(self, data: bytes) -> None:
        """Take bytes."""

    def close(self) -> None:
        """No more will come. Idempotent."""


class RawCopy:
    """The bytes as they are, to a descriptor that it owns."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes) -> None:
        """Copy bytes; the first failure ends the copy."""
        try:
            while data and self._fd >= 0:
                data = data[os.write(self._fd, data) :]
        except OSError:
            # A full disk or a closed pipe must not end the guest.
            self.close()

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)


class LogCopy:
    """Lines with the host's time at which each was complete, in a file that is rotated."""

    def __init__(self, path: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._file = RotatingFile(path, note=_tell_lost, limit_bytes=limit_bytes)
        self._partial = bytearray()

    def write(self, data: bytes) -> None:
        """Log the lines that are complete by now."""
        self._partial += data
        *complete, rest = bytes(self._partial).split(b"\n")
        self._partial = bytearray(rest)
        while len(self._partial) >= _LINE_BYTES:
            complete.append(bytes(self._partial[:_LINE_BYTES]))
            del self._partial[:_LINE_BYTES]
        self._log(complete)

    def close(self) -> None:
        """Log what has no end."""
        if self._partial:
            self._log([bytes(self._partial)])
            self._partial.clear()
        self._file.close()

    def _log(self, lines: list[bytes]) -> None:
        head = stamp() + FROM_GUEST
        if lines:
            self._file.write(b"".join(head + line.rstrip(b"\r") + b"\n" for line in lines))


def stamp() -> bytes:
    """The time as it stands in a log: seconds since the epoch, of fixed width."""
    return b"%017.6f" % time.time()


def _tell_lost(count: int) -> bytes:
    return stamp() + FROM_KEEPER + b"[inn: %d bytes lost]\n" % count


class Console:
    """Reads a console from :meth:`start` to :meth:`close`.

    :ivar panic: a future with the text of the kernel's first panic line.
    """

    def __init__(
        self, sock: StreamSocket, copy: Copy | None, audience: Audience | None = None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.panic: asyncio.Future[str] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._typing = asyncio.Lock()
        self._audience = audience
        self._loop = loop
        self._sock = sock
        self._copy = copy
        self._tail = bytearray()
        self._silent = True

    @property
    def silent(self) -> bool:
        """True until the first byte."""
        return self._silent

    def start(self) -> None:
        """Begin to read."""
        self._sock.settimeout(0)
        self._loop.add_reader(self._sock.fileno(), self._on_readable)
        if self._audience is not None:
            self._audience.seat(self)

    def close(self) -> None:
        """Read what is left, stop, and close the copy. The socket stays its owner's. Idempotent."""
        if not self._closed.done():
            self._closed.set_result(None)
        if self._audience is not None:
            self._audience.seat(None)
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            while self._read():
                pass
        if self._copy is not None:
            self._copy.close()
        self.panic.cancel()

    async def type(self, data: bytes) -> None:
        """Hand bytes to the guest as if they were typed, and wait until it took them."""
        async with self._typing:
            if self._closed.done():
                return
            sending = asyncio.ensure_future(self._loop.sock_sendall(self._sock, data))
            await asyncio.wait({sending, self._closed}, return_when=asyncio.FIRST_COMPLETED)
            sending.cancel()
            # A guest that is gone takes nothing.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await sending

    def evidence(self) -> tuple[str, ...]:
        """The lines that tell most: those around a panic, else the last ones."""
        lines = self.last_lines(_REMEMBERED_BYTES)
        for number, line in enumerate(lines):
            if _PANIC.search(line.encode()):
                # Before it stands the cause; after it, registers and a stack.
                return lines[max(0, number - 10) : number + 2]
        return lines[-12:]

    def last_lines(self, count: int) -> tuple[str, ...]:
        """The last non-empty lines, safe to print."""
        lines = [plain_line(line) for line in bytes(self._tail).split(b"\n")]
        return tuple([line for line in lines if line.strip()][-count:])

    def _on_readable(self) -> None:
        if not self._read():
            self._loop.remove_reader(self._sock.fileno())

    def _read(self) -> bool:
        """Take one piece; False at the end or when there is nothing."""
        try:
            data = self._sock.recv(_READ_BYTES)
        except OSError:
            return False
        if not data:
            return False
        self._silent = False
        self._tail += data
        del self._tail[:-_REMEMBERED_BYTES]
        if self._audience is not None:
            self._audience.hear(data)
        if self._copy is not None:
            self._copy.write(data)
        if not self.panic.done():
            match = _PANIC.search(self._tail)
            # The line is complete when something follows it.
            if match is not None and match.end() < len(self._tail):
                self.panic.set_result(escape_line(match[0].decode("utf-8", "replace")))
        return True


def open_copy(path: str | None, *, log: bool = False) -> Copy | None:
    """The console's copy: to a file as it is, to our stdout for "-", or to a log.

    :raise HostError: the file cannot be opened.
    """
    if path is None:
        return None
    if log:
        return LogCopy(Path(path))
    return RawCopy(os.dup(1) if path == "-" else open_append(path))
