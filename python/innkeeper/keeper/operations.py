# SPDX-License-Identifier: Apache-2.0
"""What is asked of a running guest and takes its time: its memory, its shares."""

from __future__ import annotations

from innkeeper.errors import UsageError
from innkeeper.hypervisors.qemu.balloon import set_balloon
from innkeeper.keeper.guest import Guest
from innkeeper.keeper.messages import (
    AddShare,
    RemoveShare,
    SetMemory,
    ShareOperation,
    ShareRemoved,
)


async def change_memory(
    guest: Guest, name: str, operation: SetMemory, *, started_bytes: int
) -> int:
    """Change a guest's memory; returns what it has then.

    :param started_bytes: what it was started with.
    :raise InnError: it is paused, cannot have so much, or did not get there in time.
    """
    _refuse_paused(guest, name, "memory")
    return await set_balloon(
        guest.qemu,
        operation.memory_bytes,
        started_bytes=started_bytes,
        limit_s=operation.timeout_s,
    )


async def change_shares(guest: Guest, name: str, operation: ShareOperation) -> ShareRemoved | None:
    """Change a guest's shares.

    :raise InnError: it can have none, is paused, or cannot do it.
    """
    side = guest.shares
    if side is None:
        raise UsageError(
            f"the guest {name!r} was started without a device for shares",
            stage="shares",
            fix="`inn doctor` tells whether this host has what shares need; "
            "a guest of `inn run` gets them with -v alone",
        )
    _refuse_paused(guest, name, "shares")
    if isinstance(operation, AddShare):
        await side.add(operation.share)
    elif isinstance(operation, RemoveShare):
        options = {"force": operation.force, "revoke": operation.revoke}
        return ShareRemoved(await side.remove(operation.guest, **options))
    else:
        await side.remount()
    return None


def _refuse_paused(guest: Guest, name: str, stage: str) -> None:
    if guest.paused:
        raise UsageError(f"the guest {name!r} is paused", stage=stage, fix=f"`inn resume {name}`")
