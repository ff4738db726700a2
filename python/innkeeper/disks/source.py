# SPDX-License-Identifier: Apache-2.0
"""What is imported, as a stream that knows where it is and what it has given so far."""

from __future__ import annotations

import hashlib
from typing import IO

from innkeeper.disks.frames import FrameError
from innkeeper.disks.moving import Moving

_STEP_BYTES = 1 << 20
# The superblock of every file system begins within this (btrfs has the last one, at 64 KiB).
PEEK_BYTES = 128 * 1024


class Source:
    """A file or pipe, read once from its beginning to its end.

    :param moving: counts what was read.
    :param hashed: :meth:`sha256` will be asked for.
    """

    def __init__(
        self, stream: IO[bytes], moving: Moving | None = None, *, hashed: bool = False
    ) -> None:
        self.stream = stream
        self.position = 0
        self._moving = moving or Moving("reading")
        self._hash = hashlib.sha256() if hashed else None
        self._buffer = b""
        self._at = 0

    def peek(self, size: int) -> bytes:
        """What comes next, fewer bytes only at the end; `size` is at most `PEEK_BYTES`."""
        while len(self._buffer) - self._at < size and self._fill():
            pass
        return self._buffer[self._at : self._at + size]

    def exactly(self, size: int) -> bytes:
        """So many bytes.

        :raise FrameError: the stream ends before.
        """
        data = self.peek(size)
        if len(data) < size:
            raise FrameError("it ends in the middle of a frame")
        self._take(size)
        return data

    def read(self, size: int = -1) -> bytes:
        """At most so many bytes, none at the end; as a file's."""
        if self._at == len(self._buffer):
            self._fill()
        left = len(self._buffer) - self._at
        size = left if size < 0 else min(size, left)
        data = self._buffer[self._at : self._at + size]
        self._take(size)
        return data

    def skip(self, size: int) -> None:
        """Pass over so many bytes.

        :raise FrameError: the stream ends before.
        """
        while size > 0:
            passed = len(self.read(min(size, _STEP_BYTES)))
            if not passed:
                raise FrameError("it ends in the middle of a frame")
            size -= passed

    def sha256(self) -> str:
        """Of everything; reads what is left."""
        assert self._hash is not None, "hashed=True was not said"
        while self.read():
            pass
        return self._hash.hexdigest()

    def tell_of(self, done: int, total: int) -> None:
        """Count what was read in another way than by this."""
        self._moving.total_bytes = total
        self._moving.done_bytes = max(self._moving.done_bytes, done)

    def _take(self, size: int) -> None:
        self._at += size
        self.position += size
        self._moving.done_bytes = max(self._moving.done_bytes, self.position)

    def _fill(self) -> bool:
        data = self.stream.read(_STEP_BYTES)
        if not data:
            return False
        if self._hash is not None:
            self._hash.update(data)
        self._buffer = self._buffer[self._at :] + data
        self._at = 0
        return True
