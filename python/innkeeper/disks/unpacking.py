# SPDX-License-Identifier: Apache-2.0
"""Reading a zstd archive into a disk: ours, ChromeOS's, or what `zstd` makes of a file.

Nothing that the archive says is believed: a frame's content is bounded by its header, all
content by the limit, memory by the size of a frame, and what the archive says of itself at
its beginning, in its table and at its end must be what came out.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, cast

from innkeeper.disks.frames import (
    CHROMEOS_MAGIC,
    FRAME_HEADER_MAXIMUM,
    METADATA_MAXIMUM_BYTES,
    OURS_MAGIC,
    TABLE_MAGIC,
    ChromeosMetadata,
    DiskEnd,
    DiskHead,
    FrameError,
    FrameHeader,
    SeekTable,
    frame_pieces,
    is_skippable,
    read_frame_header,
    read_metadata,
    read_table,
    skippable,
    table_entry,
)
from innkeeper.disks.parallel import InOrder, cpu_count, workers
from innkeeper.disks.sink import Sink
from innkeeper.disks.source import Source
from innkeeper.errors import DiskError
from innkeeper.model.sizes import format_size
from innkeeper.system.holes import is_zero

# A frame up to this is held in memory and unpacked beside others; a larger one, or one
# that does not say its size, goes through by pieces.
_WHOLE_MAXIMUM_BYTES = 4 << 20
# What `zstd -d` allows as well.
_WINDOW_MAXIMUM_BYTES = 128 << 20
_PIECE_BYTES = 1 << 20
# Content of ChromeOS's frames.
_CHROMEOS_CHUNK = (128 * 1024).to_bytes(4, "little")
# A table has an entry for each frame of 8 or 12 bytes, and 9 of its own.
_TABLE_ENTRY_BYTES = 12
_TABLE_SLACK_BYTES = 64
_U32 = 0xFFFF_FFFF


@dataclass
class Found:
    """What an archive turned out to be.

    :ivar size_bytes: of its content.
    :ivar frames: with content.
    """

    size_bytes: int = 0
    frames: int = 0
    head: DiskHead | None = None
    end: DiskEnd | None = None
    chromeos: ChromeosMetadata | None = None
    table: SeekTable | None = None


class Unpacker:
    """One archive on its way into a sink.

    :param on_head: called when the archive has said what its disk is.
    """

    def __init__(
        self, source: Source, sink: Sink, on_head: Callable[[DiskHead], None] = lambda _head: None
    ) -> None:
        self.found = Found()
        self._source = source
        self._sink = sink
        self._on_head = on_head
        self._skipped = 0
        self._head_digest = ""
        # Of the frames with content, as a table has them.
        self._entries = bytearray()
        self._content = hashlib.sha256()
        self._own = threading.local()
        # A frame of nothing but zeros, and the digest of its content.
        self._zeros = (b"", b"")

    def run(self) -> Found:
        """Read it all.

        :raise DiskError: it is damaged, incomplete, or holds too much; says where.
        :raise OSError: it cannot be read, or the disk cannot be written.
        """
        at = 0
        try:
            with workers() as pool:
                queue: InOrder[bytes] = InOrder(pool, 2 * cpu_count() + 2, self._content.update)
                while head := self._source.peek(4):
                    at = self._source.position
                    magic = int.from_bytes(head, "little")
                    if is_skippable(magic):
                        self._skippable(magic)
                    else:
                        self._frame(queue)
                queue.finish()
            at = self._source.position
            self._check_end()
        except FrameError as exc:
            raise self._damaged(str(exc), at) from exc
        return self.found

    def _damaged(self, what: str, at: int) -> DiskError:
        return DiskError(
            f"the archive is damaged: {what}",
            stage="import",
            evidence=(f"at byte {at} of the archive, byte {self.found.size_bytes} of the disk",),
            fix="fetch or make the archive again",
        )

    def _skippable(self, magic: int) -> None:
        found, source = self.found, self._source
        if found.table is not None:
            raise FrameError("something follows its seek table")
        first = source.position == 0
        size = int.from_bytes(source.exactly(8)[4:], "little")
        self._skipped += 1
        if magic == TABLE_MAGIC:
            frames = found.frames + self._skipped
            if size > frames * _TABLE_ENTRY_BYTES + _TABLE_SLACK_BYTES:
                raise FrameError("its seek table tells of more frames than there are")
            found.table = read_table(self._long(size))
            return
        if magic not in (OURS_MAGIC, CHROMEOS_MAGIC):
            source.skip(size)
            return
        if size > METADATA_MAXIMUM_BYTES:
            raise FrameError(f"its metadata has {size} bytes")
        content = source.exactly(size)
        metadata = read_metadata(magic, content)
        if isinstance(metadata, ChromeosMetadata):
            found.chromeos = metadata
        elif isinstance(metadata, DiskHead):
            if not first:
                raise FrameError("its beginning is in its middle")
            found.head = metadata
            self._head_digest = hashlib.sha256(skippable(magic, content)).hexdigest()
            self._on_head(metadata)
        elif isinstance(metadata, DiskEnd):
            found.end = metadata

    def _long(self, size: int) -> bytes:
        parts = []
        while size > 0:
            parts.append(self._source.exactly(min(size, _PIECE_BYTES)))
            size -= len(parts[-1])
        return b"".join(parts)

    def _frame(self, queue: InOrder[bytes]) -> None:
        found, source = self.found, self._source
        header = read_frame_header(source.peek(FRAME_HEADER_MAXIMUM))
        if found.table is not None or found.end is not None:
            raise FrameError("data follows its end")
        if header.window_bytes > _WINDOW_MAXIMUM_BYTES:
            raise FrameError(f"it needs {format_size(header.window_bytes)} of memory")
        size = header.content_bytes
        if found.head is not None:
            wanted = min(found.head.chunk_bytes, found.head.size_bytes - found.size_bytes)
            if size != wanted or size == 0:
                raise FrameError(f"a frame has {size} bytes of content in place of {wanted}")
        found.frames += 1
        if size is None or size > _WHOLE_MAXIMUM_BYTES:
            self._large_frame(header)
            return
        # An incompressible frame is a little larger than its content, never twice.
        frame = bytearray(source.exactly(header.size_bytes))
        for piece in frame_pieces(header, source.exactly):
            frame += piece
            if len(frame) > 2 * size + 4096:
                raise FrameError(f"a frame of {size} bytes of content has more than twice as many")
        offset = found.size_bytes
        self._check_room(offset + size)
        found.size_bytes += size
        if size:
            self._entries += table_entry(len(frame), size)
        queue.submit(self._unpack, bytes(frame), size, offset)

    def _check_room(self, size: int) -> None:
        if size > self._sink.limit_bytes:
            raise FrameError(f"it holds more than {format_size(self._sink.limit_bytes)}")

    def _unpack(self, frame: bytes, size: int, offset: int) -> bytes:
        """On a thread: a whole frame to the disk; the digest of its content, where one counts."""
        import zstandard

        # All holes of an archive are the same frame, but for the last one.
        zeros = self._zeros
        if offset and frame == zeros[0]:
            return zeros[1]
        decompressor = getattr(self._own, "decompressor", None)
        if decompressor is None:
            decompressor = self._own.decompressor = zstandard.ZstdDecompressor(
                max_window_size=_WINDOW_MAXIMUM_BYTES
            )
        try:
            data: bytes = decompressor.decompress(frame)
        except zstandard.ZstdError as exc:
            raise FrameError(f"the frame of byte {offset} of the disk: {exc}") from exc
        if len(data) != size:
            raise FrameError(f"the frame of byte {offset} of the disk is not as long as it says")
        ours = self.found.head is not None
        digest = hashlib.sha256(data).digest() if ours else b""
        if offset == 0 or not is_zero(data):
            self._sink.put(data, offset)
        else:
            self._zeros = frame, digest
        return digest

    def _large_frame(self, header: FrameHeader) -> None:
        import zstandard

        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAXIMUM_BYTES)
        found = self.found
        before = found.size_bytes
        frame = _OneFrame(header, self._source)
        try:
            with decompressor.stream_reader(
                cast("IO[bytes]", frame), read_size=_PIECE_BYTES
            ) as reader:
                while data := reader.read(_PIECE_BYTES):
                    self._check_room(found.size_bytes + len(data))
                    self._sink.put(data, found.size_bytes)
                    found.size_bytes += len(data)
        except zstandard.ZstdError as exc:
            raise FrameError(str(exc)) from exc
        if not frame.is_over():
            raise FrameError("a frame has more blocks than content")
        size = found.size_bytes - before
        if header.content_bytes not in (None, size):
            raise FrameError("a frame does not have the content that it says")
        # Larger ones cannot be in a table.
        self._entries += table_entry(min(frame.size_bytes, _U32), min(size, _U32))

    def _check_end(self) -> None:
        """Is what came out what the archive says of itself?"""
        found = self.found
        if found.head is not None:
            if found.end is None or found.table is None:
                raise FrameError("it ends early")
            if found.size_bytes != found.head.size_bytes:
                raise FrameError(
                    f"it holds {found.size_bytes} bytes in place of {found.head.size_bytes}"
                )
            if self._content.hexdigest() != found.end.content_digest:
                raise FrameError("the digest of its content is not the one that it names")
        if found.end is not None and self._head_digest != found.end.head_digest:
            raise FrameError("its beginning is not the one that belongs to its end")
        if found.table is None:
            cut = found.frames > 1 and self._entries[4:8] == _CHROMEOS_CHUNK
            if found.chromeos is not None or cut:
                raise FrameError("it ends early: there is no seek table")
        elif found.table.entries != self._entries:
            raise FrameError(
                f"its table tells of {found.table.content_bytes} bytes in other frames "
                f"than its {found.frames} of {found.size_bytes}"
            )
        if found.size_bytes == 0:
            raise FrameError("it is empty")


class _OneFrame:
    """Exactly the bytes of the frame that comes next, as a file.

    :ivar size_bytes: of what was read.
    """

    def __init__(self, header: FrameHeader, source: Source) -> None:
        self._pieces = frame_pieces(header, source.exactly)
        self._rest = source.exactly(header.size_bytes)
        self.size_bytes = header.size_bytes

    def read(self, size: int = -1) -> bytes:
        """As a file's; nothing at the frame's end."""
        if not self._rest:
            self._rest = next(self._pieces, b"")
            self.size_bytes += len(self._rest)
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def is_over(self) -> bool:
        """True when there is no more of it."""
        return not self._rest and next(self._pieces, None) is None
