# SPDX-License-Identifier: Apache-2.0
"""A disk that stays: what is stored of it, and its place in a machine.

::

    <state>/disks/NAME/    0700; locked (flock) by the guest that uses it
      disk.json            `StoredDisk`
      disk.img             0600; raw or qcow2

Its size is that of the file, so that the two cannot contradict each other.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal, get_args

import msgspec

from innkeeper.errors import OutOfSpace, UsageError
from innkeeper.model.names import check_name
from innkeeper.model.sizes import GIB, MIB, format_size

DiskFormat = Literal["raw", "qcow2"]
FsType = Literal["ext4", "btrfs"]
DiskCondition = Literal["GOOD", "MADE", "PARTIAL_DATA_LOSS"]
SpaceState = Literal["NORMAL", "LOW", "CRITICAL"]
FS_TYPES: tuple[FsType, ...] = get_args(FsType)

DISK_FILE = "disk.json"
IMAGE_FILE = "disk.img"
OVERLAY_FILE = "resize.qcow2"
DISK_VERSION = 1

# A page, and what file systems count in; disks of other sizes lose the rest.
GRAIN_BYTES = 4096
AUTO_MINIMUM_BYTES = GIB
# Of a layer over a root, which takes what is written to it.
LAYER_BYTES = 16 * GIB
# mkfs.btrfs wants 109 MiB; an ext4 of 16 MiB has room for its journal.
_MINIMUM_BYTES: dict[FsType, int] = {"ext4": 16 * MIB, "btrfs": 128 * MIB}

# Set on the file of a disk whose size somebody chose, for those who resize it. The
# name is that of ChromeOS, whose tools so know each other's disks.
USER_CHOSEN_ATTRIBUTE = "user.crostini.user_chosen_size"

# The guest's kernel gives these a meaning of their own; a disk there would hide it,
# or be hidden.
_NOT_BELOW = ("/dev", "/proc", "/run", "/sys", "/tmp")  # noqa: S108 - the guest's
_PATH_MAXIMUM = 255
DISKS_MAXIMUM = 10


class StoredDisk(msgspec.Struct, frozen=True, kw_only=True):
    """What `disk.json` says.

    :ivar serial: by which the guest finds it; no other disk has it.
    :ivar fstype: what the guest makes on it where it is blank.
    :ivar user_chosen_size: somebody gave its size.
    :ivar created_at: seconds since the epoch.
    :ivar shrink_to_bytes: what is in `resize.qcow2` belongs on it, and it gets this size then.
    """

    version: int = DISK_VERSION
    name: str
    serial: str
    file_format: DiskFormat = "raw"
    fstype: FsType = "ext4"
    user_chosen_size: bool = False
    created_at: float = 0.0
    shrink_to_bytes: int = 0


class AttachedDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk at one start of a guest.

    :ivar name: for people.
    :ivar file: on this host; absolute.
    :ivar path: where the guest mounts it.
    :ivar keeps_blocks: what the guest frees stays taken on this host.
    """

    name: str
    serial: str
    file: str
    path: str
    fstype: FsType
    file_format: DiskFormat = "raw"
    read_only: bool = False
    keeps_blocks: bool = False


class DiskState(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a disk of a running guest.

    :ivar condition: how the guest found it; None until it has told.
    :ivar detail: what the guest did about it.
    :ivar space: None until the guest has told how full it is.
    """

    name: str
    path: str
    condition: DiskCondition | None = None
    detail: str = ""
    space: SpaceState | None = None
    total_bytes: int = 0
    free_bytes: int = 0


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine keeps of its root: what it writes over the image's, or a copy of that.

    :ivar path: of the file, a disk.
    :ivar description: of the file that says over which image it was made.
    :ivar over: the image's digest.
    :ivar copy_of: the image's root; "" for a layer, which is blank at first.
    """

    path: str
    description: str
    over: str
    copy_of: str = ""


class DiskUse(msgspec.Struct, frozen=True, kw_only=True):
    """A disk in a machine: its name, and where the guest mounts it."""

    name: str
    path: str
    read_only: bool = False

    def __str__(self) -> str:
        return f"{self.name}:{self.path}{':ro' * self.read_only}"


def check_disk_name(name: str) -> str:
    """The name itself, if a disk may be called so.

    :raise UsageError: it may not.
    """
    return check_name(name, what="disk")


def parse_disk_use(text: str) -> DiskUse:
    """A disk in a machine as "NAME:/guest/path[:ro]".

    :raise UsageError: it is none.
    """
    name, _, rest = text.partition(":")
    path, _, mode = rest.partition(":")
    if not path or mode not in ("", "ro", "rw"):
        raise UsageError(
            f"{text!r} is not a disk with its place in the guest",
            fix="write it as data:/mnt/data or data:/mnt/data:ro",
        )
    check_disk_name(name)
    return DiskUse(name=name, path=_check_place(path), read_only=mode == "ro")


def check_disk_uses(uses: tuple[DiskUse, ...]) -> None:
    """Refuse disks that cannot be in one machine together.

    :raise UsageError: there are too many, or two are the same or at the same place.
    """
    if len(uses) > DISKS_MAXIMUM:
        raise UsageError(f"{len(uses)} disks", fix=f"give at most {DISKS_MAXIMUM}")
    for what, values in (
        ("the disk", [use.name for use in uses]),
        ("a disk at", [use.path for use in uses]),
    ):
        for value in values:
            if values.count(value) > 1:
                raise UsageError(f"{what} {value!r} twice", fix="name each disk and place once")


def _check_place(path: str) -> str:
    # Two slashes at the beginning mean something to POSIX, and nothing to Linux.
    plain = "/" + str(PurePosixPath(path)).lstrip("/")
    parts = PurePosixPath(path).parts
    # The kernel command line carries it between double quotes.
    if not path.startswith("/") or ".." in parts or '"' in path or not path.isprintable():
        raise UsageError(
            f"{path!r} is not a folder for a disk", fix="give an absolute path, such as /mnt/data"
        )
    if plain == "/" or any(plain == top or plain.startswith(f"{top}/") for top in _NOT_BELOW):
        raise UsageError(
            f"a disk cannot be at {plain}", fix="give a folder of its own, such as /mnt/data"
        )
    if len(plain.encode()) > _PATH_MAXIMUM:
        raise UsageError(f"{plain[:40]}... is too long a path", fix="give a shorter one")
    return plain


def space_state(before: SpaceState | None, total_bytes: int, free_bytes: int) -> SpaceState:
    """How full a disk is to be called.

    LOW begins below a tenth or 1 GiB, CRITICAL below a fiftieth or 256 MiB, whichever is
    less. A state is left with a quarter more, so that a disk at its edge is told of once.
    """
    low = min(total_bytes // 10, GIB)
    critical = min(total_bytes // 50, 256 * MIB)
    if free_bytes < critical * (5 if before == "CRITICAL" else 4) // 4:
        return "CRITICAL"
    if free_bytes < low * (4 if before in (None, "NORMAL") else 5) // 4:
        return "LOW"
    return "NORMAL"


def check_size(size_bytes: int, fstype: FsType) -> int:
    """The size that a disk gets where this one is asked for: whole pages.

    :raise UsageError: no file system of this type fits.
    """
    least = _MINIMUM_BYTES[fstype]
    if size_bytes < least:
        raise UsageError(
            f"a disk of {format_size(size_bytes)} is too small for {fstype}",
            stage="disk",
            fix=f"give --size {format_size(least)} or more",
        )
    return size_bytes // GRAIN_BYTES * GRAIN_BYTES


def automatic_size(free_bytes: int) -> int:
    """The size of a disk whose size nobody chose: nine tenths of the free space, in whole pages.

    :raise OutOfSpace: that is less than 1 GiB.
    """
    size_bytes = free_bytes * 9 // 10 // GRAIN_BYTES * GRAIN_BYTES
    if size_bytes < AUTO_MINIMUM_BYTES:
        raise OutOfSpace(
            f"{format_size(free_bytes)} are free where disks are stored; "
            f"nine tenths of that are less than {format_size(AUTO_MINIMUM_BYTES)}",
            stage="disk",
            fix="free some space, give a --size, or name a folder on another disk by INN_STATE_DIR",
        )
    return size_bytes
