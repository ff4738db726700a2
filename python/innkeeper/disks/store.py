# SPDX-License-Identifier: Apache-2.0
"""Stored disks: made, found, held by their users, removed (`innkeeper.model.disk` draws them).

A disk comes to be by one rename, whole or not at all. Whoever uses it holds a lock on
its folder: one writer, or any number of readers; the kernel releases it when a holder
dies. Neither a folder nor a file is followed through a link, and none of another user's
is taken.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from pathlib import Path

import msgspec

from innkeeper.disks.qcow2 import HEADER_BYTES, is_qcow2, qcow2_size
from innkeeper.errors import DiskError, HostError, NameInUse, UnknownName, UsageError
from innkeeper.model.disk import (
    DISK_FILE,
    DISK_VERSION,
    IMAGE_FILE,
    USER_CHOSEN_ATTRIBUTE,
    DiskFormat,
    FsType,
    StoredDisk,
    automatic_size,
    check_disk_name,
    check_size,
)
from innkeeper.system.building import building, sweep_builds
from innkeeper.system.files import (
    file_error,
    make_folder,
    move_folder,
    naming_errors,
    read_whole,
    remove_folder,
    replace_folder,
    write_atomic,
    write_new,
)
from innkeeper.system.host import disk_free_bytes
from innkeeper.system.locks import FileLock, share_folder, try_lock_folder
from innkeeper.system.sparse import copy_sparse, make_file, set_attribute

# virtio 1.2, 5.2.6.1: VIRTIO_BLK_ID_BYTES is 20.
_SERIAL_BYTES = 8


class DiskSize(msgspec.Struct, frozen=True):
    """How large a disk is.

    :ivar size_bytes: for its guest.
    :ivar taken_bytes: on this host.
    """

    size_bytes: int
    taken_bytes: int


def disk_names(disks: Path) -> tuple[str, ...]:
    """The names of all disks, sorted.

    :param disks: the folder of disks, `layout.disks`.
    """
    with contextlib.suppress(OSError):
        return tuple(
            sorted(
                path.name
                for path in disks.iterdir()
                if not path.name.startswith(".") and path.is_dir() and not path.is_symlink()
            )
        )
    return ()


def disk_path(disks: Path, name: str) -> Path:
    """The file with a disk's content."""
    return disks / name / IMAGE_FILE


def find_disk(disks: Path, name: str) -> StoredDisk:
    """A stored disk, whose folder and files are its owner's alone.

    :raise UnknownName: there is none with this name; the fix tells how to make it.
    :raise DiskError: it is damaged, or a file of it is a link or somebody else's.
    """
    check_disk_name(name)
    folder = disks / name
    _check_own_folder(disks)
    if not folder.exists() and not folder.is_symlink():
        raise _unknown(disks, name)
    _check_own_folder(folder)
    path = folder / DISK_FILE
    for file in (path, folder / IMAGE_FILE):
        _check_own(file, stat.S_ISREG, "a file")
    try:
        disk = msgspec.json.decode(read_whole(os.fspath(path)), type=StoredDisk)
    except OSError as exc:
        raise file_error(exc, path, doing="read", stage="disk") from exc
    except (ValueError, RecursionError) as exc:
        raise DiskError(
            f"the file {path} is damaged", stage="disk", evidence=(str(exc),), fix="mend it"
        ) from exc
    if disk.version != DISK_VERSION or disk.name != name:
        raise DiskError(
            f"the file {path} is not that of the disk {name!r}",
            stage="disk",
            evidence=(f"it says version {disk.version} and name {disk.name!r}",),
        )
    return disk


def measure_disk(disks: Path, disk: StoredDisk) -> DiskSize:
    """How large a disk is now.

    :raise DiskError: it is damaged, or rests on another file.
    :raise HostError: it cannot be read.
    """
    path = disk_path(disks, disk.name)
    with naming_errors(path, doing="read", stage="disk"):
        info = path.lstat()
        taken_bytes = info.st_blocks * 512
        if disk.file_format == "raw":
            return DiskSize(info.st_size, taken_bytes)
        return DiskSize(qcow2_size(_head(path), source=str(path)), taken_bytes)


def make_disk(
    disks: Path, name: str, *, size_bytes: int | None, fstype: FsType, allocate: bool | None = None
) -> StoredDisk:
    """Make a blank disk.

    :param size_bytes: None takes nine tenths of the free space.
    :param allocate: with all its blocks; None means for a size that was given.
    :raise UsageError: there is one with this name, or the size is too small.
    :raise OutOfSpace: there is not enough space; nothing is left.
    :raise HostError: it cannot be written; likewise.
    """
    disk = begin_disk(name, "raw", fstype, chosen=size_bytes is not None)
    check_place(disks, name)
    if size_bytes is None:
        with naming_errors(disks, doing="look at", stage="disk"):
            size = automatic_size(disk_free_bytes(disks))
    else:
        size = check_size(size_bytes, fstype)
    with building(disks, stage="disk") as folder:
        given = size_bytes is not None
        make_file(folder / IMAGE_FILE, size, allocate=given if allocate is None else allocate)
        place_disk(disks, folder, disk)
    return disk


def adopt_disk(disks: Path, name: str, source: Path, *, fstype: FsType) -> StoredDisk:
    """Make a disk of a raw or qcow2 file, which is copied and stays as it is.

    :param fstype: what the guest makes on it where it is blank.
    :raise UsageError: there is a disk with this name.
    :raise DiskError: it is no disk, or rests on another file, which is not read.
    :raise OutOfSpace: there is not enough space; nothing is left.
    """
    disk = begin_disk(name, "raw", fstype, chosen=True)
    check_place(disks, name)
    with building(disks, stage="disk") as folder:
        if copy_disk_file(source, folder / IMAGE_FILE) is not None:
            disk = msgspec.structs.replace(disk, file_format="qcow2")
        place_disk(disks, folder, disk)
    return disk


def copy_disk_file(source: Path, out: Path) -> int | None:
    """Copy a raw or qcow2 file, which stays as it is; the size of a qcow2's disk, None for raw.

    :raise DiskError: it is no disk, or rests on another file, which is not read.
    :raise OutOfSpace: there is not enough space; nothing is left.
    """
    with naming_errors(source, doing="read", stage="disk"):
        if not stat.S_ISREG(source.stat().st_mode):
            raise DiskError(f"{source} is not a file", stage="disk")
        head = _head(source)
    is_qcow = is_qcow2(head)
    _check_content(source, head)
    copy_sparse(source, out, mode=0o600, stage="disk")
    # Once more: what was looked at is a file of others, and may have been changed.
    head = _head(out)
    if is_qcow2(head) != is_qcow:
        raise DiskError(f"{source} changed while it was copied", stage="disk")
    _check_content(out, head)
    return qcow2_size(head, source=str(source)) if is_qcow else None


def begin_disk(name: str, file_format: DiskFormat, fstype: FsType, *, chosen: bool) -> StoredDisk:
    """The description of a new disk.

    :param chosen: somebody gave its size.
    """
    return StoredDisk(
        name=check_disk_name(name),
        serial=secrets.token_hex(_SERIAL_BYTES),
        file_format=file_format,
        fstype=fstype,
        user_chosen_size=chosen,
        created_at=time.time(),
    )


def check_place(disks: Path, name: str, *, replace: bool = False) -> None:
    """Make the folder of disks where it is missing, and see at once that a name is free.

    The rename at the end decides.

    :param replace: it need not be free.
    :raise UsageError: there is a disk with this name.
    """
    check_disk_name(name)
    make_folder(disks)
    _check_own_folder(disks)
    if not replace and ((disks / name).exists() or (disks / name).is_symlink()):
        raise _taken(name)


def place_disk(disks: Path, folder: Path, disk: StoredDisk, *, replace: bool = False) -> None:
    """Give a folder in the making its description and its name.

    :param replace: take the place of the disk of this name, which is removed.
    :raise UsageError: there is a disk of this name.
    :raise HostError: it cannot be written.
    """
    if disk.user_chosen_size:
        set_attribute(folder / IMAGE_FILE, USER_CHOSEN_ATTRIBUTE, b"1")
    write_new(folder / DISK_FILE, _encode(disk))
    if replace:
        replace_folder(folder, disks / disk.name)
    elif not move_folder(folder, disks / disk.name):
        raise _taken(disk.name)


def replace_description(disks: Path, disk: StoredDisk) -> None:
    """Write another `disk.json`, all or nothing.

    :raise HostError: it cannot be written.
    """
    write_atomic(disks / disk.name / DISK_FILE, _encode(disk))


def hold_disk(disks: Path, name: str, *, shared: bool) -> FileLock:
    """Keep a disk from everybody else for as long as the lock is not released.

    :param shared: others may read it too; nobody writes.
    :raise UnknownName: there is none with this name.
    :raise NameInUse: it is in use.
    """
    folder = disks / name
    try:
        lock = share_folder(folder) if shared else try_lock_folder(folder)
    except FileNotFoundError as exc:
        raise _unknown(disks, name) from exc
    except OSError as exc:
        raise file_error(exc, folder, doing="lock", stage="disk") from exc
    if lock is None:
        raise NameInUse(
            f"the disk {name!r} is in use",
            stage="disk",
            fix=f"`inn disk inspect {name}` tells who uses it; guests share a disk with :ro alone",
        )
    return lock


def is_held(disks: Path, name: str) -> bool:
    """Whether somebody uses a disk now, alone or shared."""
    with contextlib.suppress(OSError):
        lock = try_lock_folder(disks / name)
        if lock is None:
            return True
        lock.release()
    return False


def remove_disk(disks: Path, name: str) -> None:
    """Remove a disk. The machines that name it are the caller's concern.

    :raise UnknownName: there is none with this name.
    :raise NameInUse: it is in use.
    :raise HostError: it cannot be removed.
    """
    check_disk_name(name)
    _check_own_folder(disks)
    folder = disks / name
    if folder.is_symlink():
        _check_own_folder(folder)
    with hold_disk(disks, name, shared=False):
        remove_folder(folder)
    if folder.exists():
        raise HostError(f"cannot remove {folder}", stage="disk", fix="look at its permissions")


def sweep_disks(disks: Path) -> list[tuple[str, int]]:
    """Remove what killed makers of disks left; names and sizes in bytes."""
    return sweep_builds(disks)


def _taken(name: str) -> UsageError:
    return UsageError(
        f"there is a disk named {name!r}",
        stage="disk",
        fix=f"choose another name, or `inn disk rm {name}`",
    )


def _encode(disk: StoredDisk) -> bytes:
    return msgspec.json.encode(disk) + b"\n"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEADER_BYTES)


def _check_content(path: Path, head: bytes) -> None:
    if is_qcow2(head):
        qcow2_size(head, source=str(path))
    elif path.stat().st_size % 512 or not path.stat().st_size:
        raise DiskError(
            f"{path} has {path.stat().st_size} bytes, which are no whole sectors of a raw disk",
            stage="disk",
            fix="give a raw disk or a qcow2",
        )


def _unknown(disks: Path, name: str) -> UnknownName:
    error = UnknownName("disk", name, disk_names(disks), stage="disk")
    error.fix = f"`inn disk create {name}` makes it; {error.fix}"
    return error


def _check_own_folder(folder: Path) -> None:
    _check_own(folder, stat.S_ISDIR, "a folder")


def _check_own(path: Path, is_right: object, what: str) -> None:
    """Refuse what is a link, of another kind, of another user's, or open to others.

    :raise DiskError: it is; it is named.
    """
    assert callable(is_right)
    try:
        info = path.lstat()
    except FileNotFoundError as exc:
        if what == "a folder":
            return
        raise DiskError(
            f"the disk {path.parent.name!r} has lost its file {path}", stage="disk"
        ) from exc
    except OSError as exc:
        raise file_error(exc, path, doing="look at", stage="disk") from exc
    if not is_right(info.st_mode):
        kind = "a link" if stat.S_ISLNK(info.st_mode) else "something else"
        raise DiskError(
            f"{path} is {kind}, not {what}",
            stage="disk",
            fix="move the disk itself there; where space is elsewhere, set INN_STATE_DIR",
        )
    if info.st_uid != os.geteuid():
        raise DiskError(
            f"{path} belongs to another user",
            stage="disk",
            evidence=(f"owner is uid {info.st_uid}",),
        )
    if info.st_mode & 0o022:
        raise DiskError(f"other users can write {path}", stage="disk", fix=f"chmod go-w {path}")
