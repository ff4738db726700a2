# SPDX-License-Identifier: Apache-2.0
"""A log file that never grows beyond its limit, and never raises: what is lost is counted.

`NAME` is the newest, `NAME.1` the one before, up to `NAME.<keep>`. Lines are
never torn by a rotation.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

LIMIT_BYTES = 1 << 20
KEEP = 3


def log_paths(path: Path, *, keep: int = KEEP) -> tuple[Path, ...]:
    """The file and its older ones, the newest first."""
    return (path, *(path.with_name(f"{path.name}.{age}") for age in range(1, keep + 1)))


class RotatingFile:
    """Appends whole lines to a file, and rotates it.

    :param note: the line that tells of so many lost bytes, with its end.
    :param on_open: called with the descriptor of each newly opened file.
    """

    def __init__(
        self,
        path: Path,
        *,
        note: Callable[[int], bytes],
        limit_bytes: int = LIMIT_BYTES,
        keep: int = KEEP,
        on_open: Callable[[int], None] = lambda _fd: None,
    ) -> None:
        self.lost = 0
        self._paths = log_paths(path, keep=keep)
        self._limit = limit_bytes
        self._note = note
        self._on_open = on_open
        self._fd = -1
        self._size = 0
        # The file ends within a line, since a write failed there.
        self._torn = False

    def write(self, lines: bytes) -> None:
        """Append lines, each with its end; where that fails, they are counted as lost."""
        if self.lost:
            if self._append(b"\n" * self._torn + self._note(self.lost)):
                self.lost += len(lines)
                return
            self._torn = False
            self.lost = 0
        while lines:
            room = self._room()
            cut = len(lines) if len(lines) <= room else lines.rfind(b"\n", 0, max(0, room)) + 1
            if cut == 0 and self._size > 0:
                if not self._rotate():
                    self.lost += len(lines)
                    return
                continue
            cut = cut or len(lines)  # a line longer than a whole file
            if failed := self._append(lines[:cut]):
                self.lost += failed + len(lines) - cut
                return
            lines = lines[cut:]

    def close(self) -> None:
        """Tell of what was lost, if that is possible by now. Idempotent."""
        if self.lost:
            self.write(b"")
        self._shut()

    def _room(self) -> int:
        self._open()
        return self._limit - self._size

    def _open(self) -> bool:
        if self._fd >= 0:
            return True
        try:
            self._fd = os.open(
                self._paths[0], os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            self._size = os.fstat(self._fd).st_size
        except OSError:
            self._size = 0
            return False
        self._on_open(self._fd)
        return True

    def _append(self, data: bytes) -> int:
        """Write all of it; returns how many bytes could not be."""
        left = memoryview(data)
        if not self._open():
            return len(data)
        try:
            while left:
                written = os.write(self._fd, left)
                self._size += written
                left = left[written:]
        except OSError:
            self._torn = self._torn or len(left) < len(data)
        return len(left)

    def _rotate(self) -> bool:
        try:
            for older, newer in zip(self._paths[:0:-1], self._paths[-2::-1], strict=True):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(newer, older)
        except OSError:
            return False
        self._shut()
        return True

    def _shut(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._size = 0
