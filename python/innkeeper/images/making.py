# SPDX-License-Identifier: Apache-2.0
"""Folders in which something is made that is there whole or not at all, and what is left of them.

A maker holds the lock of its folder for as long as it lives, so a folder without a
holder is what a killed one left. It becomes something by one rename
(:func:`innkeeper.images.bundles.place_bundle`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from innkeeper.images.mapped import remove_owned
from innkeeper.system.files import make_folder, naming_errors, temporary_folder
from innkeeper.system.locks import lock_folder, try_lock, try_lock_folder

# Downloads by the digest they are to have; kept, so that the next try goes on.
PARTS = ".parts"

BUILD_PREFIX = ".build-"
# Beside what it is to become, in a folder of the user's: no other program names one so.
EXPORT_PREFIX = ".inn-export-"

_NUMBER = "[0-9a-f]{12}"


@contextlib.contextmanager
def building(parent: Path, prefix: str = BUILD_PREFIX) -> Iterator[Path]:
    """A folder to make something in; it is removed at the end unless it got another name.

    What killed makers left beside it is removed on the way.

    :param parent: `layout.images` for bundles; it is made where it is missing.
    """
    make_folder(parent)
    with contextlib.ExitStack() as stack:
        # Nobody sweeps between a folder's first moment and its lock.
        with naming_errors(parent, doing="lock", stage="image"), lock_folder(parent):
            _sweep(parent, prefix)
            folder = stack.enter_context(temporary_folder(parent, prefix))
            # Before temporary_folder's own, which cannot remove what mapped owners own.
            stack.callback(remove_owned, folder)
            stack.enter_context(lock_folder(folder))
        yield folder


def sweep_builds(images: Path) -> list[tuple[str, int]]:
    """Remove the folders of builds whose builders are gone; their names and sizes in bytes."""
    with contextlib.suppress(FileNotFoundError), lock_folder(images):
        return _sweep(images, BUILD_PREFIX)
    return []


def _sweep(parent: Path, prefix: str) -> list[tuple[str, int]]:
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
                remove_owned(path)
            swept.append((path.name, size))
    return swept


def sweep_parts(images: Path) -> list[tuple[str, int]]:
    """Remove downloads that were not finished and are not under way; names and sizes."""
    swept = []
    for path in (images / PARTS).glob("*.part"):
        with contextlib.suppress(OSError):
            lock = try_lock(path)
            if lock is None:
                continue
            with lock:
                size = path.stat().st_size
                path.unlink()
            swept.append((f"{PARTS}/{path.name}", size))
    return swept
