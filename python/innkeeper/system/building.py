# SPDX-License-Identifier: Apache-2.0
"""Folders in which something is made that is there whole or not at all, and what is left of them.

::

    PARENT/            locked (flock) for moments: making and sweeping
      .build-*         locked by its maker; else what a killed one left
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from innkeeper.system.files import make_folder, naming_errors, remove_tree, temporary_folder
from innkeeper.system.locks import lock_folder, try_lock_folder

BUILD_PREFIX = ".build-"

_NUMBER = "[0-9a-f]{12}"


@contextlib.contextmanager
def building(
    parent: Path,
    prefix: str = BUILD_PREFIX,
    *,
    stage: str,
    remove: Callable[[Path], None] = remove_tree,
) -> Iterator[Path]:
    """A folder (0700) to make something in; it is removed at the end unless it got another name.

    What killed makers left beside it is removed on the way.

    :param parent: is made where it is missing.
    :param remove: removes a folder, as far as that is possible.
    :raise OutOfSpace: the disk is full.
    :raise HostError: it cannot be made.
    """
    make_folder(parent)
    with contextlib.ExitStack() as stack:
        # Nobody sweeps between a folder's first moment and its lock.
        with naming_errors(parent, doing="lock", stage=stage), lock_folder(parent):
            _sweep(parent, prefix, remove)
            folder = stack.enter_context(temporary_folder(parent, prefix))
            # Before temporary_folder's own, which cannot remove everything that this can.
            stack.callback(remove, folder)
            stack.enter_context(lock_folder(folder))
        # Whatever is done in it, by whichever call: an error names the path.
        with naming_errors(folder, doing="write", stage=stage):
            yield folder


def sweep_builds(
    parent: Path, *, remove: Callable[[Path], None] = remove_tree
) -> list[tuple[str, int]]:
    """Remove the folders of makers that are gone; their names and sizes in bytes."""
    with contextlib.suppress(FileNotFoundError), lock_folder(parent):
        return _sweep(parent, BUILD_PREFIX, remove)
    return []


def _sweep(parent: Path, prefix: str, remove: Callable[[Path], None]) -> list[tuple[str, int]]:
    swept = []
    for path in parent.glob(f"{prefix}*"):
        # Folders that lost their name to be removed have another word before the number.
        if re.fullmatch(f"{re.escape(prefix)}(gone-)?{_NUMBER}", path.name) is None:
            continue
        with contextlib.suppress(OSError):
            lock = try_lock_folder(path)
            if lock is None:
                continue
            with lock:
                size = sum(file.lstat().st_size for file in path.rglob("*"))
                remove(path)
            swept.append((path.name, size))
    return swept
