# SPDX-License-Identifier: Apache-2.0
"""A move of a disk, killed at each of its writes in turn (breaking.py)."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from breaking import Verb, break_each

from innkeeper.disks.exporting import DIGEST_SUFFIX, export_archive
from innkeeper.disks.frames import DiskHead
from innkeeper.disks.importing import import_disk
from innkeeper.disks.moving import Moving
from innkeeper.disks.reading import Given
from innkeeper.disks.resizing import finish_shrink, settled_disk
from innkeeper.disks.store import disk_names, disk_path, find_disk

NAME = "box"


def look_stored(disks: Path) -> str | None:
    """The digest of the one disk that may be there."""
    names = disk_names(disks)
    assert names in ((), (NAME,)), names
    if not names:
        return None
    find_disk(disks, NAME)
    return hashlib.sha256(disk_path(disks, NAME).read_bytes()).hexdigest()


def look_exported(folder: Path) -> str | None:
    """The digest of the one archive that may be there, which is whole."""
    path = folder / NAME
    if not path.exists():
        return None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    beside = folder / (NAME + DIGEST_SUFFIX)
    # Killed between the two, there is none; never another archive's.
    assert not beside.exists() or beside.read_text() == f"{digest}  {NAME}\n"
    return digest


def export(disk: Path, folder: Path) -> None:
    """Write the archive."""
    folder.mkdir(exist_ok=True)
    head = DiskHead(size_bytes=disk.stat().st_size, data_bytes=0)
    export_archive(disk, head, folder / NAME, moving=Moving("test"))


def shrink(disks: Path, size: int) -> None:
    """Write an overlay back that is complete, unless that was done."""
    disk = find_disk(disks, NAME)
    if disk.shrink_to_bytes or disk_path(disks, NAME).stat().st_size == size:
        settled_disk(disks, NAME)
    else:
        finish_shrink(disks, disk, size, report=lambda _line: None)


def look_shrunk(disks: Path) -> str | None:
    """The digest of the disk as its next user finds it."""
    if find_disk(disks, NAME).shrink_to_bytes:
        settled_disk(disks, NAME)
    return look_stored(disks)


def verb_of(word: str, source: Path) -> Verb:
    """The verb of the command line."""
    if word == "shrink":
        size = int(source.name)
        return Verb(lambda disks: shrink(disks, size), look_shrunk, left_beside)
    if word == "export":
        return Verb(lambda folder: export(source, folder), look_exported, left_beside)
    return Verb(
        lambda disks: import_disk(disks, NAME, Given(source), replace=True, moving=Moving("test")),
        look_stored,
        left_beside,
    )


def left_beside(folder: Path) -> list[str]:
    """What is there beside the result."""
    known = (NAME, NAME + DIGEST_SUFFIX)
    return sorted(path.name for path in folder.iterdir() if path.name not in known)


if __name__ == "__main__":
    word, source, before, work = sys.argv[1:]
    break_each(verb_of(word, Path(source)), "kill", Path(work), Path(before) if before else None)
