# SPDX-License-Identifier: Apache-2.0
"""Resizing a disk under the guest that has it: its device by QEMU, its file system by its agent.

Growing is the device first, shrinking the file system first, so that the device is
never the smaller one.
"""

from __future__ import annotations

import errno
import time

from innkeeper.disks.resizing import grow_file, too_small
from innkeeper.disks.store import find_disk, measure_disk
from innkeeper.errors import CallFailed, DiskError, GuestError, HostError, NameInUse, UsageError
from innkeeper.keeper.client import ask_keeper
from innkeeper.keeper.disks import disk_users
from innkeeper.keeper.guest import Guest
from innkeeper.keeper.messages import DiskPlace, ResizeDisk
from innkeeper.model.disk import StoredDisk
from innkeeper.model.machine import Machine
from innkeeper.registry.layout import Layout

_ANSWER_LIMIT_S = 60.0
# For the guest's kernel to see that its disk grew, on a loaded host.
_SEEN_LIMIT_S = 20.0
_BETWEEN_S = 0.05
_STAGE = "resize"

# What ext4 and btrfs say of a size that is more than their disk has.
_NOT_SEEN_YET = (errno.EINVAL, errno.EFBIG, errno.ENOSPC)


async def resize_attached(
    guest: Guest, machine: Machine, layout: Layout, operation: ResizeDisk
) -> DiskPlace:
    """The keeper's side: resize the device, and say where the guest has it.

    :raise UsageError: the guest does not write to this disk.
    :raise HostError: QEMU refused.
    """
    places = {use.name: use.path for use in machine.disks if not use.read_only}
    if operation.disk not in places:
        raise UsageError(f"the guest does not write to a disk {operation.disk!r}")
    if operation.size_bytes:
        from qemu.qmp import QMPError

        serial = find_disk(layout.disks, operation.disk).serial
        arguments: dict[str, object] = {
            "node-name": f"disk-{serial}",
            "size": operation.size_bytes,
        }
        try:
            await guest.qemu.execute("block_resize", arguments)
        except QMPError as exc:
            raise HostError(
                f"QEMU cannot resize the disk {operation.disk!r}: {exc}", stage=_STAGE
            ) from exc
    return DiskPlace(places[operation.disk])


def resize_running(layout: Layout, disk: StoredDisk, size: int, *, fixed: bool) -> int:
    """Resize a disk and its file system under the guest that writes to it.

    :param fixed: the disk has all its blocks, and keeps them.
    :return: the size before, in bytes.
    :raise NameInUse: no guest writes to it, so somebody else has it.
    :raise DiskError: its file system cannot be shrunk while it is mounted, or not so far.
    :raise OutOfSpace: there is not enough space.
    :raise GuestError: the guest could not.
    """
    guest, path = _find_writer(layout, disk.name)
    before = measure_disk(layout.disks, disk).size_bytes
    if size < before:
        _resize_filesystem(layout, guest, path, disk, size, limit_s=0.0)
        _ask(layout, guest, ResizeDisk(disk.name, size))
        return before
    if fixed and size > before:
        grow_file(layout.disks, disk, before=before, size=size, fixed=True)
    if disk.file_format == "raw" or size > before:
        _ask(layout, guest, ResizeDisk(disk.name, size))
    _resize_filesystem(layout, guest, path, disk, size, limit_s=_SEEN_LIMIT_S)
    return before


def _find_writer(layout: Layout, disk: str) -> tuple[str, str]:
    """The guest that writes to a disk, and where it has it."""
    for name in disk_users(layout, disk).guests:
        try:
            return name, _ask(layout, name, ResizeDisk(disk, 0)).path
        except (UsageError, GuestError):
            continue  # it only reads it, or it ended in the meantime
    raise NameInUse(
        f"the disk {disk!r} is in use, but by no running guest that writes to it",
        stage=_STAGE,
        fix="stop the guests that read it, or wait for the command that works on it",
    )


def _ask(layout: Layout, guest: str, operation: ResizeDisk) -> DiskPlace:
    answer = ask_keeper(layout, guest, operation, timeout_s=_ANSWER_LIMIT_S)
    assert isinstance(answer, DiskPlace)
    return answer


def _resize_filesystem(
    layout: Layout, guest: str, path: str, disk: StoredDisk, size: int, *, limit_s: float
) -> None:
    from innkeeper.agent.control import ControlClient

    deadline = time.monotonic() + limit_s
    with ControlClient(layout.guest(guest).agent) as agent:
        while True:
            try:
                agent.resize_filesystem(path, size_bytes=size)
            except CallFailed as exc:
                if exc.number in _NOT_SEEN_YET and time.monotonic() < deadline:
                    time.sleep(_BETWEEN_S)
                    continue
                raise _explain(exc.number, disk, size) or exc from exc
            return


def _explain(number: int, disk: StoredDisk, size: int) -> DiskError | None:
    if number == errno.EOPNOTSUPP:
        return DiskError(
            f"the file system of the disk {disk.name!r} cannot be resized so while it is mounted",
            stage=_STAGE,
            fix="stop the guest first: ext4 shrinks only while nobody has it",
        )
    if number == errno.ENOSPC:
        return too_small(disk.name, size, None)
    if number == errno.EINVAL and disk.fstype == "btrfs":
        return too_small(disk.name, size, 256 << 20)
    return None
