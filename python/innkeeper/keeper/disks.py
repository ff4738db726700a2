# SPDX-License-Identifier: Apache-2.0
"""What needs both stored disks and machines: who uses a disk, removing one."""

from __future__ import annotations

import contextlib

import msgspec

from innkeeper.disks.store import is_held, remove_disk
from innkeeper.errors import InnError, NameInUse
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import load_machine, machine_names


class DiskUsers(msgspec.Struct, frozen=True):
    """Who uses a disk.

    :ivar machines: those that name it, whether they run or not.
    :ivar in_use: a guest has it now, or somebody works on it.
    """

    machines: tuple[str, ...]
    in_use: bool


def disk_users(layout: Layout, disk: str) -> DiskUsers:
    """Who uses a disk."""
    machines = []
    for name in machine_names(layout):
        # A machine whose file is damaged is told of by `inn ls`, not here.
        with contextlib.suppress(InnError):
            if disk in (use.name for use in load_machine(layout, name).disks):
                machines.append(name)
    return DiskUsers(tuple(machines), is_held(layout.disks, disk))


def remove_unused_disk(layout: Layout, disk: str, *, force: bool) -> None:
    """Remove a disk that no guest uses.

    :param force: also one that machines name, which then cannot start.
    :raise UnknownName: there is none with this name.
    :raise NameInUse: a machine names it, without `force`; or it is in use.
    """
    users = disk_users(layout, disk)
    if users.machines and not force and not users.in_use:
        raise NameInUse(
            f"the disk {disk!r} is named by the machine{'s' * (len(users.machines) > 1)} "
            f"{', '.join(users.machines)}",
            stage="disk",
            fix=f"`inn rm` the machines first, or `inn disk rm --force {disk}`: "
            "they cannot start then",
        )
    remove_disk(layout.disks, disk)
