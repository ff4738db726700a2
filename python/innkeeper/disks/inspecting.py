# SPDX-License-Identifier: Apache-2.0
"""What an archive says of its disk, told by a few KiB of its beginning and its end."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import msgspec

from innkeeper.disks.expanding import Careful
from innkeeper.disks.frames import (
    CHROMEOS_FRAME_BYTES,
    FOOTER_BYTES,
    FRAME_HEADER_MAXIMUM,
    METADATA_MAXIMUM_BYTES,
    ChromeosMetadata,
    DiskEnd,
    DiskHead,
    FrameError,
    Metadata,
    is_skippable,
    last_entry,
    read_frame_header,
    read_metadata,
    read_table,
    table_bytes,
)
from innkeeper.disks.kinds import Kind, kind_of
from innkeeper.disks.qcow2 import HEADER_BYTES, qcow2_size
from innkeeper.errors import DiskError
from innkeeper.system.files import naming_errors

_HEAD_BYTES = 4096
# Tables up to this share of an archive are read for the size of the disk.
_TABLE_SHARE = 200
_TABLE_MAXIMUM_BYTES = 64 << 20


class ArchiveInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an archive before it is unpacked; nothing of it has been verified.

    :ivar kind: "zstd", "zip", "gzip", "xz", "qcow2" or "raw".
    :ivar made_by: "innkeeper", "ChromeOS" or "" where nothing says it.
    :ivar size_bytes: of the disk, None where only unpacking tells; of several frames
        without a table, that of the first.
    :ivar vm_type: of an archive of ChromeOS: "termina" or another kind of guest.
    """

    kind: Kind
    archive_bytes: int
    made_by: str = ""
    size_bytes: int | None = None
    data_bytes: int | None = None
    name: str = ""
    fstype: str = ""
    fixed: bool = False
    vm_type: str = ""
    content_digest: str = ""


def inspect_archive(path: Path) -> ArchiveInfo:
    """Look at an archive without unpacking it.

    :raise DiskError: it is damaged where this looks.
    :raise HostError: it cannot be read.
    """
    with naming_errors(path, doing="read", stage="inspect"), path.open("rb", buffering=0) as file:
        return inspect_stream(cast("IO[bytes]", file), str(path))


def inspect_stream(file: IO[bytes], name: str) -> ArchiveInfo:
    """As :func:`inspect_archive`, of an open file that can be sought in.

    :param name: for errors.
    """
    size = file.seek(0, os.SEEK_END)
    head = _at(file, 0, _HEAD_BYTES)
    kind = kind_of(head)
    try:
        if kind == "zstd":
            return _zstd(file, size, head)
        if kind == "zip":
            return _zip(file, size)
    except (FrameError, zipfile.BadZipFile, ValueError, OverflowError) as exc:
        raise DiskError(f"{name} is damaged: {exc}", stage="inspect") from exc
    if kind == "qcow2":
        disk_bytes = qcow2_size(head[:HEADER_BYTES], source=name)
        return ArchiveInfo(kind=kind, archive_bytes=size, size_bytes=disk_bytes)
    known = size if kind == "raw" else None
    return ArchiveInfo(kind=kind, archive_bytes=size, size_bytes=known)


@dataclass
class _Said:
    """The metadata frames of an archive."""

    head: DiskHead | None = None
    end: DiskEnd | None = None
    chromeos: ChromeosMetadata | None = None

    def add(self, found: Metadata | None) -> None:
        if isinstance(found, DiskHead):
            self.head = found
        elif isinstance(found, DiskEnd):
            self.end = found
        elif isinstance(found, ChromeosMetadata):
            self.chromeos = found


def _zstd(file: IO[bytes], size: int, head: bytes) -> ArchiveInfo:
    said = _Said()
    said.add(_metadata(file, 0))
    footer = _at(file, size - FOOTER_BYTES, FOOTER_BYTES)
    table = table_bytes(footer)
    disk_bytes = None
    if table is not None and table <= size:
        start = size - table
        listed = last_entry(_at(file, size - FOOTER_BYTES - 12, 12), footer)
        for back in {listed, CHROMEOS_FRAME_BYTES}:
            if 8 < back <= start:
                said.add(_metadata(file, start - back))
        if said.head is None and table * _TABLE_SHARE <= size + 1_000_000:
            disk_bytes = read_table(_at(file, start + 8, table - 8)).content_bytes
    elif said.head is None and not is_skippable(int.from_bytes(head[:4], "little")):
        # What `zstd` makes of a file: one frame, which may say the size.
        first = read_frame_header(head[:FRAME_HEADER_MAXIMUM])
        disk_bytes = first.content_bytes
    if said.head is None:
        made_by = "ChromeOS" if said.chromeos is not None else ""
        vm_type = said.chromeos.vm_type if said.chromeos is not None else ""
        return ArchiveInfo(
            kind="zstd",
            archive_bytes=size,
            made_by=made_by,
            size_bytes=disk_bytes,
            vm_type=vm_type,
        )
    return ArchiveInfo(
        kind="zstd",
        archive_bytes=size,
        made_by="innkeeper",
        size_bytes=said.head.size_bytes,
        data_bytes=said.head.data_bytes,
        name=said.head.name,
        fstype=said.head.fstype,
        fixed=said.head.fixed,
        content_digest=said.end.content_digest if said.end is not None else "",
    )


def _metadata(file: IO[bytes], offset: int) -> Metadata | None:
    """The metadata frame at an offset, None where there is none."""
    start = _at(file, offset, 8)
    magic, size = int.from_bytes(start[:4], "little"), int.from_bytes(start[4:], "little")
    if len(start) < 8 or not is_skippable(magic) or size > METADATA_MAXIMUM_BYTES:
        return None
    return read_metadata(magic, _at(file, offset + 8, size))


def _zip(file: IO[bytes], size: int) -> ArchiveInfo:
    with zipfile.ZipFile(cast("IO[bytes]", Careful(file))) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
    only = members[0] if len(members) == 1 else None
    return ArchiveInfo(
        kind="zip",
        archive_bytes=size,
        size_bytes=only.file_size if only else None,
        name=only.filename if only else "",
    )


def find_table(path: Path) -> bytes | None:
    """The content of the seek table's frame of an archive that has one.

    :raise OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if not file.seekable():
            return None
        size = file.seek(0, os.SEEK_END)
        table = table_bytes(_at(file, size - FOOTER_BYTES, FOOTER_BYTES))
        if table is None or table > min(size, _TABLE_MAXIMUM_BYTES):
            return None
        return _at(file, size - table + 8, table - 8)


def _at(file: IO[bytes], offset: int, size: int) -> bytes:
    if offset < 0:
        return b""
    file.seek(offset)
    data = b""
    while len(data) < size and (part := file.read(size - len(data))):
        data += part
    return data
