# SPDX-License-Identifier: Apache-2.0
"""Large files with holes: made, copied, measured, marked."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from innkeeper.system.files import naming_errors

_COPY_BYTES = 1 << 20

# linux/fs.h: _IOW(0x94, 9, int)
_FICLONE = 0x40049409


def make_file(path: Path, size_bytes: int, *, allocate: bool, mode: int = 0o600) -> None:
    """A new file of this size, all zeros, on the disk.

    :param allocate: with all its blocks, so that no later write finds the disk full.
    :raise OutOfSpace: the disk is full; no file is left.
    :raise HostError: any other failure; likewise.
    """
    with naming_errors(path, doing="write", stage="disk"), _new_file(path, mode) as file:
        os.ftruncate(file.fileno(), size_bytes)
        if allocate:
            os.posix_fallocate(file.fileno(), 0, size_bytes)
        os.fsync(file.fileno())


def copy_sparse(
    path: Path,
    out: Path,
    *,
    offset: int = 0,
    size_bytes: int | None = None,
    mode: int = 0o644,
    stage: str = "import",
) -> None:
    """Copy a part of a file; blocks of zeros take no space, and none of a clone do.

    :raise OutOfSpace: the disk is full; no file is left.
    :raise HostError: it cannot be read or written; likewise.
    """
    with (
        naming_errors(out, doing="write", stage=stage),
        path.open("rb") as source,
        _new_file(out, mode) as target,
    ):
        end = os.fstat(source.fileno()).st_size
        if size_bytes is not None:
            end = min(end, offset + size_bytes)
        whole = offset == 0 and size_bytes is None
        if not (whole and _clone(source, target)):
            _copy_data(source, target, offset, end)
            os.ftruncate(target.fileno(), end - offset)
        os.fsync(target.fileno())


@contextlib.contextmanager
def _new_file(path: Path, mode: int) -> Iterator[BinaryIO]:
    """A new file, which is removed where the block fails."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(fd, "r+b", buffering=0) as file:
            yield file
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def _clone(source: BinaryIO, target: BinaryIO) -> bool:
    """Share all blocks, where the file system can (ioctl_ficlone(2))."""
    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError as exc:
        if exc.errno == errno.ENOSPC:
            raise
        return False
    return True


def _copy_data(source: BinaryIO, target: BinaryIO, offset: int, end: int) -> None:
    zeros = bytes(_COPY_BYTES)
    at = offset
    while at < end:
        try:
            at = max(at, os.lseek(source.fileno(), at, os.SEEK_DATA))
            hole = min(end, os.lseek(source.fileno(), at, os.SEEK_HOLE))
        except OSError as exc:
            # Nothing but a hole up to the end; or no file, but a device, which has no holes.
            if exc.errno == errno.ENXIO:
                return
            hole = end
        while at < hole:
            data = os.pread(source.fileno(), min(hole - at, _COPY_BYTES), at)
            if not data:
                return
            if data != zeros[: len(data)]:
                _write(target, data, at - offset)
            at += len(data)


def _write(target: BinaryIO, data: bytes, at: int) -> None:
    left = memoryview(data)
    while left:
        count = os.pwrite(target.fileno(), left, at)
        left = left[count:]
        at += count


def set_attribute(path: Path, name: str, value: bytes) -> bool:
    """Set an extended attribute; False where the file system has none.

    :raise HostError: it cannot be set for another reason.
    """
    with naming_errors(path, doing="mark", stage="disk"):
        try:
            os.setxattr(path, name, value, follow_symlinks=False)
        except OSError as exc:
            # Some say ENOTSUP, some EPERM, and a full inode table ENOSPC: a mark, no content.
            if exc.errno in (errno.ENOTSUP, errno.EPERM, errno.ENOSPC):
                return False
            raise
    return True
