# SPDX-License-Identifier: Apache-2.0
"""A move of a disk, killed at each of its writes in turn: run with `die_at_call.so` preloaded.

As the driver for images does. Prints how many rounds there were.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from innkeeper.disks.exporting import DIGEST_SUFFIX, export_archive
from innkeeper.disks.frames import DiskHead
from innkeeper.disks.importing import import_disk
from innkeeper.disks.moving import Moving
from innkeeper.disks.reading import Given
from innkeeper.disks.resizing import finish_shrink, settled_disk
from innkeeper.disks.store import disk_names, disk_path, find_disk

NAME = "box"
ROUNDS_MAXIMUM = 600


@dataclass(frozen=True)
class Verb:
    """What is done in a folder, and the digest of what is there, which fails for half a thing."""

    act: Callable[[Path], object]
    look: Callable[[Path], str | None]


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
        return Verb(lambda disks: shrink(disks, size), look_shrunk)
    if word == "export":
        return Verb(lambda folder: export(source, folder), look_exported)
    return Verb(
        lambda disks: import_disk(disks, NAME, Given(source), replace=True, moving=Moving("test")),
        look_stored,
    )


def forked(act: Callable[[Path], object], folder: Path, die_at: int) -> int:
    """Do it in a child; its exit code, -9 when it was killed."""
    pid = os.fork()
    if pid == 0:
        try:
            ctypes.CDLL(None).die_at_call(ctypes.c_long(die_at))
            act(folder)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - nothing of it may go on in the child
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def left_beside(folder: Path) -> list[str]:
    """What is there beside the result."""
    known = (NAME, NAME + DIGEST_SUFFIX)
    return sorted(path.name for path in folder.iterdir() if path.name not in known)


def main() -> None:
    """Kill at the first write, at the second, and so on until the verb ends by itself."""
    word, source, before, work = sys.argv[1:]
    verb, folder = verb_of(word, Path(source)), Path(work)
    if word == "shrink":
        shutil.copytree(before, folder)
    old = verb.look(Path(before)) if before else None
    assert forked(verb.act, folder, 0) == 0
    new = verb.look(folder)
    assert new not in (None, old)
    seen: set[str | None] = set()
    for number in range(1, ROUNDS_MAXIMUM):
        shutil.rmtree(folder)
        if before:
            shutil.copytree(before, folder)
        code = forked(verb.act, folder, number)
        if code == 0:
            break
        assert code == -signal.SIGKILL, f"round {number}: exit code {code}"
        there = verb.look(folder) if folder.exists() else None
        assert there in (old, new), f"round {number}: {there}"
        seen.add(there)
        assert forked(verb.act, folder, 0) == 0, f"round {number}: the next try failed"
        assert verb.look(folder) == new, f"round {number}: the next try"
        left = left_beside(folder)
        assert left == [], f"round {number}: {left} after the next try"
    else:
        raise AssertionError("it never ended by itself")
    assert seen == {old, new}, seen
    sys.stdout.write(json.dumps({"rounds": number - 1}))


if __name__ == "__main__":
    main()
