# SPDX-License-Identifier: Apache-2.0
"""Is there room for what is about to be written?"""

from __future__ import annotations

from pathlib import Path

from innkeeper.errors import OutOfSpace
from innkeeper.model.sizes import format_size
from innkeeper.system.files import naming_errors
from innkeeper.system.host import disk_free_bytes


def check_space(folder: Path, need_bytes: int, *, what: str, stage: str) -> None:
    """See that `folder`, a working folder below the images', has room.

    :param what: takes the room, for the message.
    :raise OutOfSpace: there is less.
    """
    with naming_errors(folder, doing="look at", stage=stage):
        free_bytes = disk_free_bytes(folder)
    if free_bytes < need_bytes:
        raise OutOfSpace(
            f"{folder.parent} has {format_size(free_bytes)} of free space; "
            f"{what} takes {format_size(need_bytes)}",
            stage=stage,
            fix="free some space, or name a folder on another disk by INN_STATE_DIR",
        )
