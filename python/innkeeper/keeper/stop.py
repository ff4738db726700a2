# SPDX-License-Identifier: Apache-2.0
"""The stop ladder: each rung asks a little less politely, and has its own time.

::

    agent ──> power button ──> SIGTERM to QEMU ──> SIGKILL
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from innkeeper.errors import InnError
from innkeeper.keeper.failure import explain_end
from innkeeper.keeper.guest import Guest, StopRequest
from innkeeper.model.record import Rung


async def climb(guest: Guest, request: StopRequest) -> tuple[Rung | None, InnError | None]:
    """End a guest's QEMU; the caller reaps.

    :return: the rung that ended it; or None, and how the guest ended while a rung waited.
    """
    short_s = max(0.5, request.timeout_s / 10)
    rungs: tuple[tuple[Rung, Callable[[], bool], float], ...] = (
        ("agent", guest.announce.ask_shutdown, request.timeout_s),
        ("power-button", lambda: _press(guest), short_s),
        ("terminate", lambda: _terminate(guest), short_s),
    )
    if request.orderly and not guest.paused:
        for rung, ask, limit_s in rungs:
            if not ask():
                continue
            await asyncio.wait({guest.exited}, timeout=limit_s)
            if guest.exited.done():
                seen = await guest.observe("stop")
                if seen.code == 0 and seen.panic is None:
                    return rung, None
                return None, explain_end(seen)
    return "kill", None


def _press(guest: Guest) -> bool:
    async def press() -> None:
        with contextlib.suppress(Exception):  # a QEMU that does not answer is the next rung's
            await guest.qemu.execute("system_powerdown")

    # Not awaited: the rung's time counts also for a QEMU that does not answer.
    guest.background.add(task := asyncio.ensure_future(press()))
    task.add_done_callback(guest.background.discard)
    return True


def _terminate(guest: Guest) -> bool:
    guest.qemu.child.terminate()
    return True
