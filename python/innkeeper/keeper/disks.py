# SPDX-License-Identifier: Apache-2.0
"""What needs both stored disks and machines: who uses a disk, what a guest gets of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from innkeeper.disks.resizing import settled_disk
from innkeeper.disks.store import (
    disk_path,
    find_disk,
    hold_disk,
    is_held,
    measure_disk,
    remove_disk,
)
from innkeeper.errors import DiskError, InnError, NameInUse
from innkeeper.model.disk import (
    LAYER_BYTES,
    AttachedDisk,
    DiskUse,
    FsType,
    Layer,
    automatic_size,
)
from innkeeper.model.machine import Machine
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import load_machine, machine_names
from innkeeper.registry.names import running_guests
from innkeeper.system.files import naming_errors, read_whole, sync_folder, write_atomic
from innkeeper.system.host import disk_free_bytes
from innkeeper.system.sparse import copy_sparse, make_file


class Releases(Protocol):
    """What calls back when it is left, as an exit stack does."""

    def callback(self, function: Callable[[], None], /) -> Any:  # noqa: ANN401 - its own business
        """Call this function then."""


class DiskUsers(msgspec.Struct, frozen=True):
    """Who uses a disk.

    :ivar machines: those that name it, whether they run or not.
    :ivar guests: those that have it now.
    :ivar in_use: a guest has it now, or somebody works on it.
    """

    machines: tuple[str, ...]
    guests: tuple[str, ...]
    in_use: bool


def disk_users(layout: Layout, disk: str) -> DiskUsers:
    """Who uses a disk."""
    machines = []
    for name in machine_names(layout):
        # A machine whose file is damaged is told of by `inn ls`, not here.
        with contextlib.suppress(InnError):
            if disk in (use.name for use in load_machine(layout, name).disks):
                machines.append(name)
    in_use = is_held(layout.disks, disk)
    return DiskUsers(tuple(machines), _guests_with(layout, disk) if in_use else (), in_use)


def _guests_with(layout: Layout, disk: str) -> tuple[str, ...]:
    running = running_guests(layout)
    return tuple(
        sorted(
            name
            for name, record in running.items()
            if disk in (state.name for state in record.disks)
        )
    )


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


def prepare_disks(machine: Machine, layout: Layout) -> tuple[AttachedDisk, ...]:
    """The disks of a machine as they will be given to its guest.

    :raise UnknownName: there is none with one of the names; the fix tells how to make it.
    :raise DiskError: one is damaged, or is not its owner's alone.
    :raise NameInUse: another guest has one of them.
    """
    return tuple(_attach(layout, use) for use in machine.disks)


def _attach(layout: Layout, use: DiskUse) -> AttachedDisk:
    disk = settled_disk(layout.disks, use.name)
    size = measure_disk(layout.disks, disk)
    _check_free(layout, use)
    return AttachedDisk(
        name=use.name,
        serial=disk.serial,
        file=str(disk_path(layout.disks, use.name)),
        path=use.path,
        fstype=disk.fstype,
        file_format=disk.file_format,
        read_only=use.read_only,
        # Blocks that were taken in advance are not to be given back.
        keeps_blocks=size.taken_bytes >= size.size_bytes,
    )


def _check_free(layout: Layout, use: DiskUse) -> None:
    """Told before there is a guest to wait for; its keeper holds the disk for good."""
    try:
        hold_disk(layout.disks, use.name, shared=use.read_only).release()
    except NameInUse as error:
        guests = " and ".join(_guests_with(layout, use.name))
        if not guests:
            raise
        raise NameInUse(
            f"the disk {use.name!r} is used by the guest {guests}",
            stage="disk",
            fix="stop it first; guests share a disk where all of them have it with :ro",
        ) from error


def needed_fstypes(machine: Machine, disks: tuple[AttachedDisk, ...]) -> tuple[FsType, ...]:
    """The file systems that the guest must be able to make and mount."""
    layer: set[FsType] = {"ext4"} if machine.root_overlay in ("keep", "copy") else set()
    return tuple(sorted(layer | {disk.fstype for disk in disks}))


def hold_disks(layout: Layout, disks: tuple[AttachedDisk, ...], stack: Releases) -> None:
    """Hold a guest's disks until the stack is left, and look at them once more.

    :raise NameInUse: another guest has one of them.
    :raise UnknownName, DiskError: one was removed or changed since the plan was made.
    """
    for disk in disks:
        lock = hold_disk(layout.disks, disk.name, shared=disk.read_only)
        stack.callback(lock.release)
        now = find_disk(layout.disks, disk.name)
        # A shrink that was killed since then has to be finished before anybody writes.
        if now.serial != disk.serial or now.shrink_to_bytes:
            raise DiskError(
                f"the disk {disk.name!r} is another one than a moment ago",
                stage="disk",
                fix="try again",
            )


def place_layer(layer: Layer) -> None:
    """Make the file of a machine's layer where it is missing; never another one.

    :raise DiskError: it was made over another image.
    :raise OutOfSpace: there is no room; nothing is left.
    """
    path, description = Path(layer.path), Path(layer.description)
    if path.exists():
        over = _layer_over(description)
        if over != layer.over:
            raise DiskError(
                "the image changed since this machine's layer was made over it",
                stage="disk",
                evidence=(f"it was {over[:12]} and is {layer.over[:12]}",),
                fix=f"build or install the old image again, or remove {path}: "
                "what the guest wrote is lost then",
            )
        return
    made = path.with_name(f".{path.name}.new")
    # The machine's folder is its keeper's alone: this is what a killed one left.
    made.unlink(missing_ok=True)
    if layer.copy_of:
        copy_sparse(Path(layer.copy_of), made, mode=0o600, stage="disk")
    else:
        with naming_errors(path.parent, doing="look at", stage="disk"):
            free_bytes = disk_free_bytes(path.parent)
        make_file(made, min(LAYER_BYTES, automatic_size(free_bytes)), allocate=False)
    # The disk comes last: without it, the description is that of none.
    write_atomic(description, msgspec.json.encode({"version": 1, "over": layer.over}))
    with naming_errors(path, doing="write", stage="disk"):
        made.rename(path)
        sync_folder(path.parent)


def _layer_over(description: Path) -> str:
    try:
        value = msgspec.json.decode(read_whole(str(description)), type=dict[str, str | int])
        return str(value["over"])
    except (OSError, ValueError, KeyError) as exc:
        raise DiskError(
            f"the file {description} is damaged", stage="disk", evidence=(str(exc),)
        ) from exc
