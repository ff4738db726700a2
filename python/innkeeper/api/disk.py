# SPDX-License-Identifier: Apache-2.0
"""A disk that outlives guests, for Python programs.

::

    innkeeper.Disk.create("data", size="10G")
    with innkeeper.Machine.run("tiny", disks=["data:/srv"]) as vm:
        vm.exec(["touch", "/srv/file"], check=True)
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from innkeeper.disks.store import (
    DiskSize,
    adopt_disk,
    disk_names,
    disk_path,
    find_disk,
    make_disk,
    measure_disk,
)
from innkeeper.keeper.disks import DiskUsers, disk_users, remove_unused_disk
from innkeeper.model.disk import FsType, StoredDisk
from innkeeper.model.sizes import parse_size
from innkeeper.registry.layout import host_layout


class Disk:
    """A stored disk. Made by :meth:`create`, :meth:`get` and :meth:`list`."""

    def __init__(self, stored: StoredDisk) -> None:
        self._stored = stored

    @classmethod
    def create(
        cls,
        name: str,
        *,
        size: str | int | None = None,
        fs: FsType = "ext4",
        allocate: bool | None = None,
        source: str | Path | None = None,
    ) -> Self:
        """Make a disk, blank or of a file.

        :param size: as "10G" or in bytes; None takes nine tenths of the free space.
        :param fs: the file system that the first guest makes.
        :param allocate: take all its space now; None means where a size is given.
        :param source: a raw disk or a qcow2, which is copied; it has a size of its own.
        :raise InnError: there is one with this name, no space, or the file is no disk.
        """
        disks = host_layout().disks
        if source is not None:
            return cls(adopt_disk(disks, name, Path(source), fstype=fs))
        size_bytes = None if size is None else parse_size(str(size))
        return cls(make_disk(disks, name, size_bytes=size_bytes, fstype=fs, allocate=allocate))

    @classmethod
    def get(cls, name: str) -> Self:
        """The disk of this name.

        :raise UnknownName: there is none.
        :raise DiskError: it is damaged, or not its owner's alone.
        """
        return cls(find_disk(host_layout().disks, name))

    @classmethod
    def list(cls) -> tuple[str, ...]:
        """The names of all disks, sorted."""
        return disk_names(host_layout().disks)

    @property
    def name(self) -> str:
        """By which machines name it."""
        return self._stored.name

    @property
    def path(self) -> Path:
        """The file with its content."""
        return disk_path(host_layout().disks, self.name)

    @property
    def size(self) -> DiskSize:
        """How large it is for its guest, and what it takes on this host now."""
        return measure_disk(host_layout().disks, self._stored)

    @property
    def users(self) -> DiskUsers:
        """The machines that name it, and the guests that have it now."""
        return disk_users(host_layout(), self.name)

    def remove(self, *, force: bool = False) -> None:
        """Remove it with all that is on it.

        :param force: also where a machine names it.
        :raise NameInUse: a machine names it, or it is in use.
        """
        remove_unused_disk(host_layout(), self.name, force=force)
