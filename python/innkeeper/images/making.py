# SPDX-License-Identifier: Apache-2.0
"""Folders in which something is made that is there whole or not at all, and what is left of them.

A maker holds the lock of its folder for as long as it lives, so a folder without a
holder is what a killed one left. It becomes something by one rename
(:func:`innkeeper.images.bundles.place_bundle`).
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from innkeeper.images.mapped import remove_owned
from innkeeper.system import building as system_building
from innkeeper.system.building import BUILD_PREFIX
from innkeeper.system.locks import try_lock

# Downloads by the digest they are to have; kept, so that the next try goes on.
PARTS = ".parts"

# Beside what it is to become, in a folder of the user's: no other program names one so.
EXPORT_PREFIX = ".inn-export-"


def building(parent: Path, prefix: str = BUILD_PREFIX) -> contextlib.AbstractContextManager[Path]:
    """A folder to make an image in (:func:`innkeeper.system.building.building`).

    :param parent: `layout.images` for bundles.
    """
    return system_building.building(parent, prefix, stage="image", remove=remove_owned)


def sweep_builds(images: Path) -> list[tuple[str, int]]:
    """Remove the folders of builds whose builders are gone; their names and sizes in bytes."""
    return system_building.sweep_builds(images, remove=remove_owned)


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
