# SPDX-License-Identifier: Apache-2.0
"""Files with holes: where their data is, and writing without making blocks of zeros."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

# What file systems keep a file in; a hole is at least this large.
BLOCK_BYTES = 4096
_ZEROS = bytes(1 << 20)


def data_ranges(fd: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """The beginnings and ends of what is not a hole, in order (lseek(2), SEEK_DATA).

    A file system that knows no holes has one range.

    :param size_bytes: where to end.
    :raise OSError: the file cannot be sought in.
    """
    end = 0
    while end < size_bytes:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # nothing but a hole until the end
                return
            raise
        if start >= size_bytes:
            return
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size_bytes)
        yield start, end


def is_zero(data: bytes) -> bool:
    """True when there is no byte but zeros, or none at all."""
    if len(data) <= len(_ZEROS):
        return data == _ZEROS[: len(data)]
    return not any(data)


def write_sparse(fd: int, data: bytes, offset: int) -> int:
    """Write at an offset all blocks that are not zeros; returns how many bytes these are.

    What was there before must be a hole.

    :raise OSError: as pwrite(2).
    """
    if is_zero(data):
        return 0
    written, start = 0, -1
    zero = _ZEROS[:BLOCK_BYTES]
    size = len(data)
    view = memoryview(data)
    for at in range(0, size, BLOCK_BYTES):
        if data[at : at + BLOCK_BYTES] == zero[: size - at]:
            if start >= 0:
                written += _write_all(fd, view[start:at], offset + start)
                start = -1
        elif start < 0:
            start = at
    if start >= 0:
        written += _write_all(fd, view[start:], offset + start)
    return written


def _write_all(fd: int, data: memoryview, offset: int) -> int:
    at = 0
    while at < len(data):
        at += os.pwrite(fd, data[at:], offset + at)
    return at
