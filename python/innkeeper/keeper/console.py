# SPDX-License-Identifier: Apache-2.0
"""The guest's serial console: always drained, the end of it remembered, copied where asked.

A guest writes what and as much as it likes here. Memory is bounded by
`_REMEMBERED_BYTES`; control bytes are escaped before a person sees them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re

from innkeeper.system.files import open_append
from innkeeper.system.sockets import StreamSocket

_REMEMBERED_BYTES = 64 * 1024
_READ_BYTES = 16 * 1024

_PANIC = re.compile(rb"Kernel panic - not syncing: [^\r\n]*")
# C0 and C1 controls and DEL, except tab.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ESCAPE_SEQUENCE = re.compile(rb"\x1b(?:\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>78c])")


def escape_line(line: str) -> str:
    r"""A line with control characters made visible, as `\x1b`."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", line)


class Console:
    """Reads a console from :meth:`start` to :meth:`close`.

    :ivar panic: a future with the text of the kernel's first panic line.
    """

    def __init__(self, sock: StreamSocket, copy_fd: int | None) -> None:
        loop = asyncio.get_running_loop()
        self.panic: asyncio.Future[str] = loop.create_future()
        self._loop = loop
        self._sock = sock
        self._copy_fd = copy_fd
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

    def close(self) -> None:
        """Read what is left, stop, and close the copy. The socket stays its owner's. Idempotent."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            while self._read():
                pass
        if self._copy_fd is not None:
            os.close(self._copy_fd)
            self._copy_fd = None
        self.panic.cancel()

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
        text = _ESCAPE_SEQUENCE.sub(b"", bytes(self._tail)).decode("utf-8", "replace")
        lines = [escape_line(line.strip("\r")) for line in text.split("\n")]
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
        self._copy(data)
        if not self.panic.done():
            match = _PANIC.search(self._tail)
            # The line is complete when something follows it.
            if match is not None and match.end() < len(self._tail):
                self.panic.set_result(escape_line(match[0].decode("utf-8", "replace")))
        return True

    def _copy(self, data: bytes) -> None:
        if self._copy_fd is None:
            return
        try:
            while data:
                data = data[os.write(self._copy_fd, data) :]
        except OSError:
            # A full disk or a closed pipe must not end the guest.
            with contextlib.suppress(OSError):
                os.close(self._copy_fd)
            self._copy_fd = None


def open_copy(path: str | None) -> int | None:
    """A descriptor for the console's copy: of a file, or of our stdout for "-".

    :raise HostError: the file cannot be opened.
    """
    if path is None:
        return None
    if path == "-":
        return os.dup(1)
    return open_append(path)
