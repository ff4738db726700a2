# SPDX-License-Identifier: Apache-2.0
"""Making disks larger and smaller with what is on them, stopped or under a running guest.

::

    grow     the file, then the file system; by a guest of its own, or the running one
    shrink   the file system, then the file; ext4 only while no guest has the disk

A resize that ends in its middle leaves a disk that is larger than its file system; the
same command again goes on from there (`innkeeper.disks.resizing`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from innkeeper.disks.resizing import (
    cut_file,
    finish_shrink,
    grow_file,
    is_blank,
    make_overlay,
    settle,
    take_blocks,
    too_small,
)
from innkeeper.disks.store import (
    disk_path,
    find_disk,
    hold_disk,
    measure_disk,
    replace_description,
)
from innkeeper.errors import NameInUse
from innkeeper.keeper.disk_online import resize_running
from innkeeper.keeper.worker import DONE, OTHER_KIND, TOO_SMALL, explain, resize_in_guest
from innkeeper.model.disk import StoredDisk, check_size
from innkeeper.registry.layout import Layout

Report = Callable[[str], None]


class Resized(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a disk.

    :ivar before_bytes: its size before.
    :ivar running: a guest had it meanwhile.
    """

    disk: str
    before_bytes: int
    size_bytes: int
    running: bool = False


def resize_disk(
    layout: Layout, name: str, size_bytes: int, *, report: Report = lambda _line: None
) -> Resized:
    """Give a disk another size, and its file system with it.

    :param size_bytes: rounded down to 4096.
    :param report: gets a line for each thing that takes time.
    :raise UnknownName: there is no such disk.
    :raise UsageError: no file system fits into so little.
    :raise DiskError: what is on it does not, with its minimum; or it is damaged.
    :raise OutOfSpace: there is not enough space; the disk is as it was.
    :raise NameInUse: guests read it, or somebody works on it.
    """
    disk = find_disk(layout.disks, name)
    size = check_size(size_bytes, disk.fstype)
    try:
        lock = hold_disk(layout.disks, name, shared=False)
    except NameInUse:
        before = resize_running(layout, disk, size, fixed=is_fixed(layout, disk))
        _note(layout, disk)
        return Resized(disk=name, before_bytes=before, size_bytes=size, running=True)
    with lock:
        disk = settle(layout.disks, find_disk(layout.disks, name), report=report)
        before = measure_disk(layout.disks, disk).size_bytes
        if size >= before:
            _grow(layout, disk, before, size, report)
        else:
            _shrink(layout, disk, size, report)
        _note(layout, disk)
    return Resized(disk=name, before_bytes=before, size_bytes=size)


def _note(layout: Layout, disk: StoredDisk) -> None:
    if not disk.user_chosen_size:
        replace_description(layout.disks, msgspec.structs.replace(disk, user_chosen_size=True))


def is_fixed(layout: Layout, disk: StoredDisk) -> bool:
    """Whether all blocks of a disk are taken."""
    size = measure_disk(layout.disks, disk)
    return disk.file_format == "raw" and size.taken_bytes >= size.size_bytes


def _grow(layout: Layout, disk: StoredDisk, before: int, size: int, report: Report) -> None:
    fixed = is_fixed(layout, disk)
    if size > before:
        grow_file(layout.disks, disk, before=before, size=size, fixed=fixed)
    if is_blank(layout.disks, disk):
        return
    report("growing the file system in a guest of its own")
    path = disk_path(layout.disks, disk.name)
    worked = resize_in_guest(
        layout,
        path,
        disk.file_format,
        fstype=disk.fstype,
        keeps_blocks=fixed,
        grow=True,
        size=size,
        report=report,
    )
    if worked.code == OTHER_KIND:
        kind = worked.kind or "nothing that is known"
        report(f"there is {kind} on it and not {disk.fstype}: only the disk grew")
    elif worked.code != DONE:
        raise explain(disk.name, worked, doing="grow the file system on")


def _shrink(layout: Layout, disk: StoredDisk, size: int, report: Report) -> None:
    disks, name = layout.disks, disk.name
    if is_blank(disks, disk):
        cut_file(disks, disk, size)
        return
    report("shrinking the file system in a guest of its own")
    path = disk_path(disks, name)
    # btrfs is consistent at every moment; resize2fs is not.
    fixed = is_fixed(layout, disk)
    overlay = make_overlay(disks, disk) if disk.fstype == "ext4" else None
    work = partial(
        resize_in_guest, layout, fstype=disk.fstype, grow=False, size=size, report=report
    )
    try:
        if overlay is None:
            worked = work(path, disk.file_format, keeps_blocks=fixed)
        else:
            worked = work(overlay, "qcow2", base=(path, disk.file_format))
    except BaseException:
        settle(disks, disk)
        raise
    if worked.code != DONE:
        settle(disks, disk)
        if worked.code == TOO_SMALL:
            raise too_small(name, size, worked.minimum)
        raise explain(name, worked, doing="shrink")
    if overlay is None:
        cut_file(disks, disk, size)
    else:
        finish_shrink(disks, disk, size, report=report)
    if fixed:
        take_blocks(disks, disk, size)
