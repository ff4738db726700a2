# SPDX-License-Identifier: Apache-2.0
"""inotify(7): the calls themselves."""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from pathlib import Path
from typing import NamedTuple

from innkeeper.errors import HostError

# sys/inotify.h
MODIFY = 0x2
CLOSE_WRITE = 0x8
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
OVERFLOW = 0x4000
IGNORED = 0x8000
ONLY_FOLDERS = 0x01000000
NO_FOLLOW = 0x02000000
NOT_UNLINKED = 0x04000000
IS_FOLDER = 0x40000000

_EVENT = struct.Struct("iIII")
_READ_BYTES = 64 * 1024

_LIBC = ctypes.CDLL(None, use_errno=True)


class Event(NamedTuple):
    """What happened.

    :ivar watch: number of the watch, -1 for an overflow.
    :ivar name: in the watched folder; empty for the folder itself.
    """

    watch: int
    mask: int
    name: bytes


class Inotify:
    """A queue of events, not blocking.

    :ivar fd: readable when there are some; -1 once closed.
    :raise HostError: the user has too many already.
    """

    def __init__(self) -> None:
        self.fd: int = _LIBC.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self.fd < 0:
            raise HostError(
                f"cannot watch folders: {os.strerror(ctypes.get_errno())}",
                stage="follow",
                fix="raise fs.inotify.max_user_instances",
            )

    def add(self, path: Path | bytes, mask: int) -> int:
        """Watch a path; the number of the watch.

        :raise OSError: it is not there, or there are too many watches (ENOSPC).
        """
        number = int(_LIBC.inotify_add_watch(self.fd, os.fsencode(path), mask))
        if number < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), os.fsdecode(path))
        return number

    def remove(self, watch: int) -> None:
        """Stop a watch; one that ended by itself is no error."""
        _LIBC.inotify_rm_watch(self.fd, watch)

    def read(self) -> list[Event]:
        """The next events, [] when there are none."""
        found: list[Event] = []
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.fd, _READ_BYTES)
            at = 0
            while at < len(data):
                watch, mask, _cookie, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size
                found.append(Event(watch, mask, data[at : at + length].rstrip(b"\0")))
                at += length
        return found

    def close(self) -> None:
        """Stop watching. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
