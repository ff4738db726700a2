# SPDX-License-Identifier: Apache-2.0
"""Changes in folders as they happen, by inotify(7)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from innkeeper.errors import HostError

# sys/inotify.h
_IN_MODIFY = 0x2
_IN_MOVED_TO = 0x80
_IN_CREATE = 0x100
_IN_DELETE = 0x200
_MASK = _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE
_IN_CLOEXEC = os.O_CLOEXEC
_IN_NONBLOCK = os.O_NONBLOCK
_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 * 1024

_LIBC = ctypes.CDLL(None, use_errno=True)


class FolderWatch:
    """Tells when something in some folders was made, written, renamed or removed."""

    def __init__(self) -> None:
        self.fd = _LIBC.inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK)
        if self.fd < 0:
            raise HostError(
                f"cannot watch folders: {os.strerror(ctypes.get_errno())}",
                stage="follow",
                fix="raise fs.inotify.max_user_instances",
            )
        self._folders: dict[int, Path] = {}

    def add(self, folder: Path) -> bool:
        """Watch one more folder; False when there is none."""
        number = _LIBC.inotify_add_watch(self.fd, os.fsencode(folder), _MASK)
        if number >= 0:
            self._folders[number] = folder
        return bool(number >= 0)

    def take(self) -> set[Path]:
        """The paths about which there is news; the folders themselves when news was lost."""
        found: set[Path] = set()
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.fd, _READ_BYTES)
            at = 0
            while at < len(data):
                number, _mask, _cookie, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size
                name = os.fsdecode(data[at : at + length].rstrip(b"\0"))
                at += length
                if number in self._folders:
                    found.add(self._folders[number] / name if name else self._folders[number])
                else:  # IN_Q_OVERFLOW
                    found.update(self._folders.values())
        return found

    def wait(
        self, timeout_s: float | None, *, also: Iterable[int] = (), reader_of: int = -1
    ) -> set[int]:
        """The descriptors that are readable: our own and those of `also`.

        :param reader_of: a descriptor that is written to.
        :raise BrokenPipeError: nobody reads from that any more.
        """
        poller = select.poll()
        for fd in (self.fd, *also):
            poller.register(fd, select.POLLIN)
        if reader_of >= 0:
            poller.register(reader_of, 0)
        ready = dict(poller.poll(None if timeout_s is None else timeout_s * 1000))
        if ready.pop(reader_of, 0) & select.POLLERR:
            raise BrokenPipeError
        return set(ready)

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
