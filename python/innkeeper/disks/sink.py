# SPDX-License-Identifier: Apache-2.0
"""A disk in the making: what is written, how much at most, and that the host keeps some space."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from innkeeper.disks.kinds import looks_like_disk
from innkeeper.errors import DiskError, OutOfSpace
from innkeeper.model.sizes import MIB, format_size
from innkeeper.system.holes import write_sparse
from innkeeper.system.host import disk_free_bytes

# Left to everything else on the host's disk, whatever an archive says.
KEEP_FREE_BYTES = 64 * MIB
_LOOK_EVERY_BYTES = 32 * MIB


class Sink:
    """A new file that becomes a disk. Its methods may be called on several threads.

    :param path: a file of no bytes.
    :param limit_bytes: no disk is larger.
    :param any_content: do not ask whether it looks like a disk.
    """

    def __init__(self, fd: int, path: Path, *, limit_bytes: int, any_content: bool) -> None:
        self.limit_bytes = limit_bytes
        self.any_content = any_content
        self.data_bytes = 0
        self._fd = fd
        self._path = path
        self._unseen = _LOOK_EVERY_BYTES
        self._lock = threading.Lock()

    def put(self, data: bytes, offset: int) -> None:
        """A part of the disk's content.

        :raise DiskError: it is past the limit, or no disk begins so.
        :raise OutOfSpace: the host's disk is about to be full.
        :raise OSError: it cannot be written.
        """
        if offset + len(data) > self.limit_bytes:
            raise DiskError(
                f"it holds more than {format_size(self.limit_bytes)}",
                stage="import",
                fix="if that is meant, allow more with --limit",
            )
        if offset == 0 and not self.any_content and not looks_like_disk(data):
            raise DiskError(
                "its content is no disk: there is neither a file system nor a partition table",
                stage="import",
                evidence=(f"it begins with {data[:8].hex(' ')}",),
                fix="if it is one all the same, add --raw",
            )
        written = write_sparse(self._fd, data, offset)
        with self._lock:
            self.data_bytes += written
            self._unseen += written
            look = self._unseen >= _LOOK_EVERY_BYTES
            if look:
                self._unseen = 0
        if look:
            self.check_space()

    def check_space(self, need_bytes: int = 0) -> None:
        """See that the host's disk has room, with some left.

        :raise OutOfSpace: it has not.
        """
        free = disk_free_bytes(self._path.parent)
        if free < need_bytes + KEEP_FREE_BYTES:
            wanted = f"; {format_size(need_bytes)} are needed" if need_bytes else ""
            raise OutOfSpace(
                f"{self._path.parent.parent} has {format_size(free)} of free space{wanted}",
                stage="import",
                fix="free some space, or name a folder on another disk by INN_STATE_DIR",
            )

    def finish(self, size_bytes: int) -> None:
        """All is written: give the file its size, and bring it to the disk.

        :raise OSError: that failed.
        """
        os.truncate(self._fd, size_bytes)
        os.fsync(self._fd)
