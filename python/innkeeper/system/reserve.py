# SPDX-License-Identifier: Apache-2.0
"""Replacing a file for which the disk has always room: the old and the new change places."""

from __future__ import annotations

import os
from pathlib import Path

from innkeeper.system.files import exchange, naming_errors, sync_folder

# A record with its evidence is seldom larger; a larger one gets more, if there is more.
_STEP_BYTES = 8 * 1024


def write_reserved(path: Path, data: bytes) -> None:
    """Replace a file; a reader sees the old one or the new one, also after a crash.

    Both files keep their blocks, the one that is not in use as `.NAME.spare`. So a
    second write succeeds on a full disk too, where copies on write do not need more.
    The file ends with blanks, which JSON allows.

    :raise OutOfSpace: there is no room yet and the disk is full; the old file is untouched.
    :raise HostError: any other failure; likewise.
    """
    spare = path.with_name(f".{path.name}.spare")
    size = -(-(len(data) + 1) // _STEP_BYTES) * _STEP_BYTES
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with naming_errors(path, doing="write", stage="record"):
        fd = os.open(spare, flags, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
            os.truncate(fd, size)
            os.pwrite(fd, data.ljust(size - 1) + b"\n", 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        if not path.exists() or not exchange(spare, path):
            os.replace(spare, path)
        sync_folder(path.parent)
