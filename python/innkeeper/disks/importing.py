# SPDX-License-Identifier: Apache-2.0
"""A stored disk of an archive or another file: whole, or what was there before."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from innkeeper.disks.kinds import kind_of
from innkeeper.disks.moving import Moving
from innkeeper.disks.reading import Content, Given, compare_digest, read_disk, wanted_digest
from innkeeper.disks.sink import Sink
from innkeeper.disks.source import Source
from innkeeper.disks.store import (
    begin_disk,
    check_place,
    copy_disk_file,
    disk_names,
    find_disk,
    hold_disk,
    measure_disk,
    place_disk,
)
from innkeeper.errors import DiskError
from innkeeper.model.disk import FS_TYPES, GRAIN_BYTES, IMAGE_FILE, FsType, StoredDisk
from innkeeper.system.building import building
from innkeeper.system.files import naming_errors
from innkeeper.system.host import disk_free_bytes
from innkeeper.system.sparse import make_file

_MAGIC_BYTES = 16


def import_disk(
    disks: Path,
    name: str,
    given: Given,
    *,
    replace: bool = False,
    force: bool = False,
    fstype: FsType = "ext4",
    moving: Moving,
) -> tuple[StoredDisk, Content]:
    """Make a disk of a file, or replace one; the old one stays until the new one is whole.

    A qcow2 is copied as it is and never interpreted here; of everything else a raw disk
    is made.

    :param disks: the folder of disks, `layout.disks`.
    :param replace: a disk of this name may be there.
    :param force: also one that is in use: its guests go on with the old one until they end.
    :param fstype: what a guest makes on it where it is blank and nothing else is known.
    :raise UsageError: there is a disk of this name, without `replace`.
    :raise NameInUse: it is in use, without `force`.
    :raise DiskError: the file is damaged, incomplete or no disk.
    :raise OutOfSpace: there is not enough space.
    """
    check_place(disks, name, replace=replace)
    with contextlib.ExitStack() as stack:
        old: StoredDisk | None = None
        if name in disk_names(disks):
            old = find_disk(disks, name)
            if not force:
                stack.enter_context(hold_disk(disks, name, shared=False))
        fixed = old is not None and _is_fixed(disks, old)
        folder = stack.enter_context(building(disks, stage="import"))
        content, file_format = _fill(folder / IMAGE_FILE, given, fixed=fixed, moving=moving)
        head = content.head
        known = next((one for one in FS_TYPES if head is not None and one == head.fstype), None)
        disk = begin_disk(
            name,
            file_format="qcow2" if file_format == "qcow2" else "raw",
            fstype=known or (fstype if old is None else old.fstype),
            chosen=True,
        )
        if old is not None:
            # Machines know it by its serial number, from one start to the next.
            disk = msgspec.structs.replace(disk, serial=old.serial)
        place_disk(disks, folder, disk, replace=old is not None)
    return disk, content


def _is_fixed(disks: Path, disk: StoredDisk) -> bool:
    size = measure_disk(disks, disk)
    return disk.file_format == "raw" and size.taken_bytes >= size.size_bytes


def _fill(path: Path, given: Given, *, fixed: bool, moving: Moving) -> tuple[Content, str]:
    """Make the disk's file; says what it was made of, and its format."""
    if given.path is not None and _is_qcow2(given.path):
        return _copy_qcow2(path, given.path), "qcow2"
    make_file(path, 0, allocate=False)
    with naming_errors(path, doing="write", stage="import"), path.open("r+b") as file:
        sink = Sink(
            file.fileno(),
            path,
            limit_bytes=disk_free_bytes(path.parent),
            any_content=given.any_content,
        )
        content = read_disk(given, sink, moving=moving)
        # What guests and their file systems count in; what is added is zeros.
        size = -(-content.size_bytes // GRAIN_BYTES) * GRAIN_BYTES
        os.truncate(file.fileno(), size)
        if fixed or (content.head is not None and content.head.fixed):
            sink.check_space(size - sink.data_bytes)
            os.posix_fallocate(file.fileno(), 0, size)
        os.fsync(file.fileno())
    return content, "raw"


def _is_qcow2(path: Path) -> bool:
    with naming_errors(path, doing="import", stage="import"):
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return kind_of(file.read(_MAGIC_BYTES)) == "qcow2"


def _copy_qcow2(path: Path, source: Path) -> Content:
    wanted = wanted_digest(source)
    size = copy_disk_file(source, path)
    if wanted:
        with naming_errors(path, doing="read", stage="import"), path.open("rb") as file:
            compare_digest(str(source), wanted, Source(file, hashed=True).sha256())
    if size is None:
        raise DiskError(f"{source} changed while it was copied", stage="import")
    return Content("qcow2", size, verified=bool(wanted))
