# SPDX-License-Identifier: Apache-2.0
"""The frames of a zstd archive: what is in them, what is about them, and where they are. Pure.

::

    [skippable: ours, what the disk is]  data frame ...  [skippable: ours, its digest]
    [skippable: seek table]

The formats are in RFC 8878 (frames, blocks, skippable frames) and in zstd's
contrib/seekable_format (the table). Any `zstd -d` reads such an archive. The archives of
ChromeOS have the same shape, with a metadata frame of theirs and smaller frames.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

FRAME_MAGIC = 0xFD2FB528
# 16 magic numbers are skippable frames, told apart by their users.
SKIPPABLE_FIRST, SKIPPABLE_LAST = 0x184D2A50, 0x184D2A5F
OURS_MAGIC = 0x184D2A5D
CHROMEOS_MAGIC = 0x184D2A55
TABLE_MAGIC = 0x184D2A5E
TABLE_FOOTER_MAGIC = 0x8F92EAB1

# In front of the two skippable frames of ours.
HEAD_MARK = b"INNKEEPERDISK\0"
END_MARK = b"INNKEEPEREND\0"
# ChromeOS: "CROSVMEXPMETA", the name of an attribute of the disk's file, its value.
_CHROMEOS_MARK = b"CROSVMEXPMETA\0"
CHROMEOS_FRAME_BYTES = 47
_CHROMEOS_TYPES = {
    0: "unknown",
    1: "termina",
    2: "arcvm",
    3: "plugin",
    4: "borealis",
    5: "bruschetta",
    6: "baguette",
}

# Metadata is a few hundred bytes; a table has 8 or 12 for each frame.
METADATA_MAXIMUM_BYTES = 64 * 1024

# 1 PiB: more than any disk has, and than holes can make in a time that somebody waits.
SIZE_MAXIMUM_BYTES = 1 << 50

# Each frame of ours holds this much of the disk, the last one less.
CHUNK_BYTES = 1 << 20

_U32 = struct.Struct("<I")
_SKIPPABLE = struct.Struct("<II")
_ENTRY = struct.Struct("<II")
_FOOTER = struct.Struct("<IBI")
FOOTER_BYTES = _FOOTER.size
_CHECKSUMS_FLAG = 0x80
_BLOCK_RLE, _BLOCK_RESERVED = 1, 3
# Of a block's content, compressed or not (RFC 8878, 3.1.1.2.4).
_BLOCK_MAXIMUM = 128 * 1024
FRAME_HEADER_MAXIMUM = 18


class FrameError(Exception):
    """Bytes that cannot be what they should be; says what is wrong with them."""


class DiskHead(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive of ours says of its disk, at its beginning.

    :ivar size_bytes: of the disk.
    :ivar data_bytes: at most this much of it is not zero.
    :ivar chunk_bytes: content of each frame.
    :ivar name: the disk's name where it was.
    :ivar fstype: its file system, "" where that is not known.
    :ivar fixed: its space was allocated in advance.
    """

    version: int = 1
    size_bytes: int
    data_bytes: int
    chunk_bytes: int = CHUNK_BYTES
    name: str = ""
    fstype: str = ""
    fixed: bool = False


class DiskEnd(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive of ours says after its data.

    :ivar content_digest: SHA-256 over the SHA-256s of all chunks, in hex. A hole's
        chunks have the same, so that a digest of a sparse disk costs what its data costs.
    :ivar head_digest: SHA-256 of the first frame, in hex.
    """

    content_digest: str
    head_digest: str


class ChromeosMetadata(msgspec.Struct, frozen=True):
    """What an archive of ChromeOS says of its disk.

    :ivar vm_type: "termina" or another of its kinds of guest.
    """

    vm_type: str


Metadata = DiskHead | DiskEnd | ChromeosMetadata


def skippable(magic: int, content: bytes) -> bytes:
    """A frame that decompressors pass over."""
    return _SKIPPABLE.pack(magic, len(content)) + content


def head_frame(head: DiskHead) -> bytes:
    """The first frame of an archive of ours."""
    return skippable(OURS_MAGIC, HEAD_MARK + msgspec.json.encode(head))


def end_frame(end: DiskEnd) -> bytes:
    """The frame after the data of an archive of ours."""
    return skippable(OURS_MAGIC, END_MARK + msgspec.json.encode(end))


def table_entry(frame_bytes: int, content_bytes: int) -> bytes:
    """A frame's part of the table; one that is skipped has no content."""
    return _ENTRY.pack(frame_bytes, content_bytes)


def seek_table(entries: bytes) -> bytes:
    """The table of an archive, its last frame.

    :param entries: of each frame before it, by :func:`table_entry`.
    """
    footer = _FOOTER.pack(len(entries) // _ENTRY.size, 0, TABLE_FOOTER_MAGIC)
    return skippable(TABLE_MAGIC, entries + footer)


def is_skippable(magic: int) -> bool:
    """True for the magic number of a frame without data."""
    return SKIPPABLE_FIRST <= magic <= SKIPPABLE_LAST


def read_metadata(magic: int, content: bytes) -> Metadata | None:
    """What the content of a skippable frame says, None where it is somebody else's.

    :raise FrameError: it is ours or ChromeOS's, but damaged.
    """
    try:
        if magic == OURS_MAGIC and content.startswith(HEAD_MARK):
            head = msgspec.json.decode(content[len(HEAD_MARK) :], type=DiskHead)
            _check_head(head)
            return head
        if magic == OURS_MAGIC and content.startswith(END_MARK):
            return msgspec.json.decode(content[len(END_MARK) :], type=DiskEnd)
    except ValueError as exc:  # msgspec's too
        raise FrameError(f"its metadata is damaged: {exc}") from exc
    if magic == CHROMEOS_MAGIC and content.startswith(_CHROMEOS_MARK):
        parts = content.split(b"\0")
        if len(parts) < 4 or not parts[2].isdigit() or len(parts[2]) > 4:
            raise FrameError("its metadata is damaged: no type of guest")
        number = int(parts[2])
        return ChromeosMetadata(_CHROMEOS_TYPES.get(number, f"type {number}"))
    return None


def _check_head(head: DiskHead) -> None:
    if head.version != 1:
        raise FrameError(f"it has version {head.version}; this innkeeper reads version 1")
    if head.size_bytes > SIZE_MAXIMUM_BYTES:
        raise FrameError(f"it says that its disk has {head.size_bytes} bytes")
    if not 0 <= head.data_bytes <= head.size_bytes or head.size_bytes == 0:
        raise FrameError(f"it says that {head.data_bytes} of {head.size_bytes} bytes are data")
    if head.chunk_bytes != CHUNK_BYTES:
        raise FrameError(f"its chunks have {head.chunk_bytes} bytes, not {CHUNK_BYTES}")


@dataclass(frozen=True)
class SeekTable:
    """What a seek table says; frames without content are left out.

    :ivar content_bytes: of all of them.
    :ivar entries: of each frame, by :func:`table_entry`.
    """

    content_bytes: int
    entries: bytes


def table_bytes(footer: bytes) -> int | None:
    """The whole size of the table whose last `FOOTER_BYTES` these are, None where they are none."""
    if len(footer) != FOOTER_BYTES:
        return None
    count, flags, magic = _FOOTER.unpack(footer)
    if magic != TABLE_FOOTER_MAGIC:
        return None
    entry = _ENTRY.size + (4 if flags & _CHECKSUMS_FLAG else 0)
    return int(_SKIPPABLE.size + count * entry + FOOTER_BYTES)


def last_entry(before: bytes, footer: bytes) -> int:
    """The size of the last frame that a table tells of.

    :param before: the 12 bytes before the footer.
    """
    at = 0 if footer[4] & _CHECKSUMS_FLAG else 4
    return int.from_bytes(before[at : at + 4], "little")


def read_table(content: bytes) -> SeekTable:
    """What the content of a table's frame says.

    :raise FrameError: it is damaged.
    """
    size = table_bytes(content[-FOOTER_BYTES:])
    if size is None or size != len(content) + _SKIPPABLE.size:
        raise FrameError("its seek table is damaged")
    count, flags, _ = _FOOTER.unpack(content[-FOOTER_BYTES:])
    words = 3 if flags & _CHECKSUMS_FLAG else 2
    values = struct.unpack_from(f"<{count * words}I", content)
    pairs = zip(values[0::words], values[1::words], strict=True)
    entries = b"".join(table_entry(*pair) for pair in pairs if pair[1])
    return SeekTable(sum(values[1::words]), entries)


@dataclass(frozen=True)
class FrameHeader:
    """The header of a frame with data.

    :ivar size_bytes: of the header itself.
    :ivar content_bytes: None where the frame does not say it.
    :ivar window_bytes: of memory that a decompressor needs.
    """

    size_bytes: int
    content_bytes: int | None
    window_bytes: int
    has_checksum: bool


def read_frame_header(data: bytes) -> FrameHeader:
    """The header at the beginning of data (RFC 8878, 3.1.1.1).

    :param data: `FRAME_HEADER_MAXIMUM` bytes, or fewer at the end of a file.
    :raise FrameError: it is none, or it is cut off.
    """
    if len(data) < 6 or _U32.unpack_from(data)[0] != FRAME_MAGIC:
        raise FrameError("there is no zstd frame")
    descriptor = data[4]
    if descriptor & 0x08:
        raise FrameError("the frame's header has a bit that must be zero")
    single = bool(descriptor & 0x20)
    at = 5 + (0 if single else 1)
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    size_flag = descriptor >> 6
    field = (1 if single else 0, 2, 4, 8)[size_flag]
    end = at + dictionary + field
    if len(data) < end:
        raise FrameError("the frame's header is cut off")
    if any(data[at : at + dictionary]):
        raise FrameError("the frame needs a dictionary")
    content: int | None = None
    if field:
        content = int.from_bytes(data[end - field : end], "little") + (256 if field == 2 else 0)
    if single:
        assert content is not None
        window = content
    else:
        exponent, mantissa = data[5] >> 3, data[5] & 7
        base = 1 << (10 + exponent)
        window = base + base // 8 * mantissa
    return FrameHeader(end, content, window, bool(descriptor & 0x04))


def frame_pieces(header: FrameHeader, read: Callable[[int], bytes]) -> Iterator[bytes]:
    """The rest of a frame, block by block, without looking into them.

    :param read: gives exactly so many bytes of what follows the header, or raises.
    :raise FrameError: a block cannot be.
    """
    while True:
        raw = read(3)
        word = int.from_bytes(raw, "little")
        last, kind, size = word & 1, word >> 1 & 3, word >> 3
        if kind == _BLOCK_RESERVED or size > _BLOCK_MAXIMUM:
            raise FrameError("a block's header is damaged")
        yield raw + read(1 if kind == _BLOCK_RLE else size)
        if last:
            break
    if header.has_checksum:
        yield read(4)
