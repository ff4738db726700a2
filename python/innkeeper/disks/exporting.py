# SPDX-License-Identifier: Apache-2.0
"""An archive of a disk as a file with its digest beside it, there whole or not at all.

::

    FOLDER/
      .NAME.inn-part-*       locked (flock) by its writer; else what a killed one left
      NAME                   the archive
      NAME.sha256            as sha256sum writes it; made after the archive, removed before
"""

from __future__ import annotations

import contextlib
import glob
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from innkeeper.disks.frames import DiskHead
from innkeeper.disks.moving import Moving
from innkeeper.disks.packing import DEFAULT_LEVEL, Written, data_bytes, pack
from innkeeper.errors import UsageError
from innkeeper.system.files import naming_errors, sync_folder
from innkeeper.system.locks import try_lock

DIGEST_SUFFIX = ".sha256"
_PART = ".inn-part-"


def check_target(target: Path | None, *, replace: bool) -> None:
    """Refuse a place where no archive should go, before anything is done.

    :param target: None for stdout.
    :raise UsageError: something is there, or it is a terminal.
    """
    if target is None:
        if sys.stdout.isatty():
            raise UsageError(
                "stdout is a terminal", stage="export", fix="give a file, or a pipe to a program"
            )
        return
    if target.is_dir():
        raise UsageError(f"{target} is a folder", stage="export", fix="give the name of a file")
    if not target.parent.is_dir():
        raise UsageError(f"there is no folder {target.parent}", stage="export")
    if os.path.lexists(target) and not replace:
        raise UsageError(
            f"{target} exists", stage="export", fix="add --replace, or choose another name"
        )
    if "\n" in target.name or "\\" in target.name:
        raise UsageError(
            f"{target.name!r} cannot stand in a file of digests",
            stage="export",
            fix="choose a name without line breaks and backslashes",
        )


def export_archive(
    disk: Path,
    head: DiskHead,
    target: Path | None,
    *,
    moving: Moving,
    level: int = DEFAULT_LEVEL,
) -> Written:
    """Write the archive of a raw disk, with its digest beside it.

    :param head: what to say of it; the amount of data is filled in here.
    :param target: a file, which is replaced where there is one; None is stdout.
    :raise OutOfSpace: the target's disk is full; nothing is left, and what was there stays.
    :raise HostError: the disk cannot be read or the target not be written; likewise.
    """
    named = "stdout" if target is None else str(target)
    with naming_errors(disk, doing="read", stage="export"), disk.open("rb") as file:
        head = DiskHead(
            size_bytes=head.size_bytes,
            data_bytes=data_bytes(file.fileno(), head.size_bytes),
            name=head.name,
            fstype=head.fstype,
            fixed=head.fixed,
        )
        with naming_errors(named, doing="write", stage="export"):
            if target is None:
                written = pack(
                    file.fileno(), head, sys.stdout.buffer.write, moving=moving, level=level
                )
                sys.stdout.buffer.flush()
                return written
            beside = target.with_name(target.name + DIGEST_SUFFIX)
            with _arriving(target, displaced=beside) as write:
                written = pack(file.fileno(), head, write, moving=moving, level=level)
            with _arriving(beside) as write:
                write(f"{written.archive_sha256}  {target.name}\n".encode())
            return written


@contextlib.contextmanager
def _arriving(target: Path, *, displaced: Path | None = None) -> Iterator[Callable[[bytes], int]]:
    """Write a file that gets its name when the block has ended.

    What killed writers of the same file left is removed on the way.

    :param displaced: a file that must not be beside this one, and is removed before.
    """
    sweep_parts(target)
    part = target.with_name(f".{target.name}{_PART}{os.urandom(6).hex()}")
    lock = try_lock(part)
    assert lock is not None, "nobody else knows its name"
    with lock:
        try:
            with part.open("r+b", buffering=0) as file:

                def write(data: bytes) -> int:
                    view = memoryview(data)
                    while view:
                        view = view[file.write(view) :]
                    return len(data)

                yield write
                os.fsync(file.fileno())
            if displaced is not None:
                displaced.unlink(missing_ok=True)
            part.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
    sync_folder(target.parent)


def sweep_parts(target: Path) -> None:
    """Remove what writers of this file that were killed have left."""
    for path in target.parent.glob(f".{glob.escape(target.name)}{_PART}*"):
        with contextlib.suppress(OSError):
            lock = try_lock(path)
            if lock is not None:
                with lock:
                    path.unlink()
