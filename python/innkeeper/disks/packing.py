# SPDX-License-Identifier: Apache-2.0
"""Writing a disk as an archive: each MiB a zstd frame of its own, made on all CPUs.

Holes are never read, and all of them are the same few bytes in the archive.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from innkeeper.disks.frames import (
    CHUNK_BYTES,
    DiskEnd,
    DiskHead,
    end_frame,
    head_frame,
    seek_table,
    table_entry,
)
from innkeeper.disks.moving import Moving
from innkeeper.disks.parallel import InOrder, cpu_count, workers
from innkeeper.system.holes import data_ranges, is_zero

DEFAULT_LEVEL = 3
LEVELS = (1, 19)


@dataclass(frozen=True)
class _Packed:
    """A chunk as it goes into the archive."""

    frame: bytes
    digest: bytes
    size_bytes: int


@dataclass(frozen=True)
class Written:
    """What became of a disk.

    :ivar archive_sha256: of all bytes of the archive, in hex.
    """

    archive_bytes: int
    archive_sha256: str
    content_digest: str


class _Chunks:
    """Makes frames of a disk's chunks; each thread has its own compressor."""

    def __init__(self, fd: int, size_bytes: int, level: int) -> None:
        self._fd = fd
        self._size_bytes = size_bytes
        self._level = level
        self._own = threading.local()
        self._zeros: dict[int, _Packed] = {}

    def size_at(self, offset: int) -> int:
        """How much of the disk is in the chunk that begins there."""
        return min(CHUNK_BYTES, self._size_bytes - offset)

    def hole(self, size: int) -> _Packed:
        """A chunk of zeros."""
        if size not in self._zeros:
            self._zeros[size] = self._pack(bytes(size))
        return self._zeros[size]

    def chunk(self, offset: int) -> _Packed:
        """The chunk that begins there, read from the disk.

        :raise OSError: it cannot be read.
        """
        size = self.size_at(offset)
        data = os.pread(self._fd, size, offset)
        while len(data) < size:
            more = os.pread(self._fd, size - len(data), offset + len(data))
            if not more:
                raise OSError(f"the disk ends at byte {offset + len(data)}, under our hands")
            data += more
        return self.hole(size) if is_zero(data) else self._pack(data)

    def _pack(self, data: bytes) -> _Packed:
        compressor = getattr(self._own, "compressor", None)
        if compressor is None:
            import zstandard

            compressor = self._own.compressor = zstandard.ZstdCompressor(
                level=self._level, write_checksum=True, write_content_size=True
            )
        frame: bytes = compressor.compress(data)
        return _Packed(frame, hashlib.sha256(data).digest(), len(data))


def data_bytes(fd: int, size_bytes: int) -> int:
    """How much of a disk is not a hole."""
    return sum(end - start for start, end in data_ranges(fd, size_bytes))


def pack(
    fd: int,
    head: DiskHead,
    write: Callable[[bytes], object],
    *,
    moving: Moving,
    level: int = DEFAULT_LEVEL,
) -> Written:
    """Write the archive of a disk.

    :param fd: the disk, a file for reading.
    :param head: what to say of it; its size counts.
    :param write: takes the archive's bytes in order.
    :raise OSError: the disk cannot be read, or `write` raised it.
    """
    chunks = _Chunks(fd, head.size_bytes, level)
    whole, content = hashlib.sha256(), hashlib.sha256()
    entries = bytearray()
    total = 0

    def put(data: bytes, content_bytes: int = 0) -> None:
        nonlocal total, entries
        write(data)
        whole.update(data)
        total += len(data)
        entries += table_entry(len(data), content_bytes)

    def done(packed: _Packed) -> None:
        put(packed.frame, packed.size_bytes)
        content.update(packed.digest)
        moving.done_bytes += packed.size_bytes

    moving.total_bytes = head.size_bytes
    first = head_frame(head)
    put(first)
    with workers() as pool:
        queue = InOrder(pool, 2 * cpu_count() + 2, done)
        for offset, is_hole in _plan(fd, head.size_bytes):
            if is_hole:
                queue.put(chunks.hole(chunks.size_at(offset)))
            else:
                queue.submit(chunks.chunk, offset)
        queue.finish()
    digest = content.hexdigest()
    put(end_frame(DiskEnd(content_digest=digest, head_digest=hashlib.sha256(first).hexdigest())))
    put(seek_table(bytes(entries)))
    return Written(total, whole.hexdigest(), digest)


def _plan(fd: int, size_bytes: int) -> Iterator[tuple[int, bool]]:
    """Where each chunk begins, and whether it is but a hole."""
    at = 0
    for start, end in data_ranges(fd, size_bytes):
        while at + CHUNK_BYTES <= start:
            yield at, True
            at += CHUNK_BYTES
        while at < end:
            yield at, False
            at += CHUNK_BYTES
    while at < size_bytes:
        yield at, True
        at += CHUNK_BYTES
