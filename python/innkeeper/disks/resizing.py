# SPDX-License-Identifier: Apache-2.0
"""The file of a disk, made larger or smaller, and a shrink that is there whole or not at all.

A file that grew is a disk with space that its file system does not use yet, so growing
may end at any moment. Shrinking ext4 moves data about and may not: a guest does it on
an overlay, and what is in there is written back when it is complete.

::

    NAME/resize.qcow2     what the guest changes; without `shrink_to_bytes` it is thrown away
    NAME/disk.json        `shrink_to_bytes`: the overlay is complete; it is written back,
                          by the next user if need be, and the file is cut
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from innkeeper.disks.store import disk_path, find_disk, hold_disk, replace_description
from innkeeper.errors import DiskError, OutOfSpace
from innkeeper.model.disk import GRAIN_BYTES, IMAGE_FILE, OVERLAY_FILE, StoredDisk
from innkeeper.model.sizes import format_size
from innkeeper.system.files import naming_errors, sync_file, sync_folder
from innkeeper.system.holes import is_zero
from innkeeper.system.host import disk_free_bytes
from innkeeper.system.process import run_tool
from innkeeper.system.watched import run_watched

_STAGE = "resize"
_TOOL_TIMEOUT_S = 60.0
# As the agent looks at a disk before it makes a file system.
_BLANK_BYTES = 1 << 20
_PACKAGE = "qemu-utils"


def is_blank(disks: Path, disk: StoredDisk) -> bool:
    """Whether nothing is where a file system would begin. Of a qcow2 nobody looks.

    :raise HostError: it cannot be read.
    """
    path = disk_path(disks, disk.name)
    if disk.file_format != "raw":
        return False
    with naming_errors(path, doing="read", stage=_STAGE), path.open("rb") as file:
        return is_zero(file.read(_BLANK_BYTES))


def grow_file(disks: Path, disk: StoredDisk, *, before: int, size: int, fixed: bool) -> None:
    """Make the file of a disk larger.

    :param fixed: with all its blocks.
    :raise OutOfSpace: there is no room for them; the file is as it was.
    """
    path = disk_path(disks, disk.name)
    if fixed:
        free = disk_free_bytes(path.parent)
        if free < size - before:
            raise OutOfSpace(
                f"{disks} has {format_size(free)} of free space; "
                f"{format_size(size - before)} are needed",
                stage=_STAGE,
                fix="free some space",
            )
    if disk.file_format == "qcow2":
        _resize_qcow2(path, size)
        return
    with naming_errors(path, doing="enlarge", stage=_STAGE), path.open("r+b") as file:
        try:
            if fixed:
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                os.truncate(file.fileno(), size)
        except BaseException:
            os.truncate(file.fileno(), before)
            raise
        os.fsync(file.fileno())


def take_blocks(disks: Path, disk: StoredDisk, size: int) -> None:
    """Take all blocks of a raw disk again, after programs that free what is zero.

    :raise OutOfSpace: there is no room for them.
    """
    path = disk_path(disks, disk.name)
    with naming_errors(path, doing="allocate", stage=_STAGE), path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def cut_file(disks: Path, disk: StoredDisk, size: int) -> None:
    """Make the file of a disk smaller; what is behind its new end is lost.

    :raise HostError: it cannot be written.
    """
    path = disk_path(disks, disk.name)
    if disk.file_format == "qcow2":
        _resize_qcow2(path, size, "--shrink")
        return
    with naming_errors(path, doing="cut", stage=_STAGE), path.open("r+b") as file:
        os.truncate(file.fileno(), size)
        os.fsync(file.fileno())


def _resize_qcow2(path: Path, size: int, *options: str) -> None:
    command = ["qemu-img", "resize", "-q", "-f", "qcow2", *options, str(path), str(size)]
    run_tool(command, stage=_STAGE, timeout_s=_TOOL_TIMEOUT_S)


def make_overlay(disks: Path, disk: StoredDisk) -> Path:
    """An empty overlay over a disk, which is not written to by who writes to this.

    :raise HostError: it cannot be made.
    """
    overlay = disks / disk.name / OVERLAY_FILE
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", IMAGE_FILE]
    run_tool(
        [*command, "-F", disk.file_format, str(overlay)], stage=_STAGE, timeout_s=_TOOL_TIMEOUT_S
    )
    with naming_errors(overlay, doing="write", stage=_STAGE):
        overlay.chmod(0o600)
    return overlay


def finish_shrink(
    disks: Path, disk: StoredDisk, size: int, *, report: Callable[[str], None]
) -> StoredDisk:
    """The overlay is complete: write it back and cut the disk.

    From the first step on, whoever uses the disk next goes on where this ended.

    :raise OutOfSpace: there is no room to write it back; the next user tries again.
    """
    overlay = disks / disk.name / OVERLAY_FILE
    with naming_errors(overlay, doing="write", stage=_STAGE):
        sync_file(overlay)
        sync_folder(overlay.parent)
    replace_description(disks, msgspec.structs.replace(disk, shrink_to_bytes=size))
    return settle(disks, msgspec.structs.replace(disk, shrink_to_bytes=size), report=report)


def settle(
    disks: Path, disk: StoredDisk, *, report: Callable[[str], None] = lambda _line: None
) -> StoredDisk:
    """Finish or undo what a killed resize left. For who holds the disk alone.

    :return: the disk as it is described then.
    :raise HostError: it cannot be written.
    """
    overlay = disks / disk.name / OVERLAY_FILE
    if not disk.shrink_to_bytes:
        with naming_errors(overlay, doing="remove", stage=_STAGE):
            overlay.unlink(missing_ok=True)
        return disk
    if overlay.exists():
        report("writing the changes back")
        # It stays complete (-d), so that this can be done again.
        run_watched(
            ["qemu-img", "commit", "-q", "-d", "-f", "qcow2", str(overlay)],
            stage=_STAGE,
            packages=_PACKAGE,
        )
    # Without an overlay it was written back, and the kill came later.
    cut_file(disks, disk, disk.shrink_to_bytes)
    with naming_errors(overlay, doing="remove", stage=_STAGE):
        overlay.unlink(missing_ok=True)
    settled = msgspec.structs.replace(disk, shrink_to_bytes=0)
    replace_description(disks, settled)
    return settled


def settled_disk(disks: Path, name: str) -> StoredDisk:
    """As :func:`find_disk`, after what a killed resize left is finished or undone.

    :raise NameInUse: it is, and somebody has the disk: the resize goes on.
    """
    disk = find_disk(disks, name)
    if not disk.shrink_to_bytes and not (disks / name / OVERLAY_FILE).exists():
        return disk
    with hold_disk(disks, name, shared=False):
        return settle(disks, find_disk(disks, name))


def too_small(name: str, size: int, minimum: int | None) -> DiskError:
    """The error for a size that the data on a disk do not fit in."""
    if minimum is None:
        return DiskError(
            f"the disk {name!r} cannot have {format_size(size)}: what is on it needs more",
            stage=_STAGE,
            fix="give a larger size, or remove something in a guest",
        )
    return DiskError(
        f"the disk {name!r} cannot have {format_size(size)}: what is on it needs {minimum} bytes",
        stage=_STAGE,
        fix=f"give {-(-minimum // GRAIN_BYTES) * GRAIN_BYTES // 1024}K or more, or remove something in a guest",
    )
