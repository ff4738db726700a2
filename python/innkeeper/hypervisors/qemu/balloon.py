# SPDX-License-Identifier: Apache-2.0
"""The memory balloon: pages that a guest's driver gives back to the host, as many as it is told.

The guest's own word is how much it has; it is bounded before it is used.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from innkeeper.errors import GuestError, TimedOut, UsageError
from innkeeper.model.machine import MEMORY_MINIMUM_BYTES
from innkeeper.model.sizes import MIB, format_size

# QEMU's event of a change comes at most once a second, so the size is asked for.
_LOOK_EVERY_S = 0.05


class Monitor(Protocol):
    """What executes QMP commands."""

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """A command's answer."""


def balloon_option(suffix: str) -> str:
    """The `-device` value of the balloon.

    free-page-reporting gives back what the guest does not use, unasked;
    deflate-on-oom lets a guest that runs short take pages back before it
    kills a program.
    """
    return f"virtio-balloon-{suffix},id=balloon,deflate-on-oom=on,free-page-reporting=on"


def check_target(target_bytes: int, started_bytes: int) -> None:
    """Refuse a size that a running guest cannot have.

    :raise UsageError: it is less than a guest needs or more than it was started with.
    """
    if target_bytes > started_bytes:
        raise UsageError(
            f"the guest was started with {format_size(started_bytes)} of memory "
            f"and cannot have {format_size(target_bytes)}",
            stage="memory",
            fix="stop it, set its memory, start it",
        )
    if target_bytes < MEMORY_MINIMUM_BYTES:
        raise UsageError(
            f"{format_size(target_bytes)} of memory is too little for a guest",
            stage="memory",
            fix=f"give {format_size(MEMORY_MINIMUM_BYTES)} or more",
        )
    if target_bytes % MIB:
        raise UsageError(f"{target_bytes} bytes of memory", fix="give a whole number of MiB")


def bounded_size(actual: object, started_bytes: int) -> int:
    """The guest's size as QMP tells it, within what is possible: the guest writes part of it."""
    return max(0, min(actual, started_bytes)) if isinstance(actual, int) else started_bytes


async def set_balloon(
    qemu: Monitor, target_bytes: int, *, started_bytes: int, limit_s: float
) -> int:
    """Have a running guest change its size; returns the size that it then has.

    :raise UsageError: the size is not possible.
    :raise GuestError: QEMU refused.
    :raise TimedOut: it did not get there in time; it goes on trying.
    """
    # Whoever plans imports this module too, and has no loop.
    import asyncio

    check_target(target_bytes, started_bytes)
    deadline = time.monotonic() + limit_s
    await _execute(qemu, "balloon", {"value": target_bytes})
    while True:
        answer: Any = await _execute(qemu, "query-balloon")
        size = bounded_size(answer.get("actual"), started_bytes)
        if abs(size - target_bytes) < MIB:
            return size
        if time.monotonic() >= deadline:
            raise TimedOut(
                f"the guest has {format_size(size)} of memory after {limit_s:g} s, "
                f"not yet the {format_size(target_bytes)} that were asked for",
                stage="memory",
                fix="wait: it goes on; or end something in the guest, which may use its memory",
            )
        await asyncio.sleep(_LOOK_EVERY_S)


async def _execute(qemu: Monitor, command: str, arguments: dict[str, object] | None = None) -> Any:  # noqa: ANN401 - as QMP answers
    from qemu.qmp import QMPError

    try:
        return await qemu.execute(command, arguments)
    except QMPError as exc:
        raise GuestError(f"QEMU refused {command}: {exc}", stage="memory") from exc
