# SPDX-License-Identifier: Apache-2.0
"""Holding a guest still while somebody reads a disk that it writes to.

It is paused for as long as those who asked for it keep their connection, so that a
reader who is killed leaves no paused guest behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from innkeeper.errors import GuestError, InnError, NameInUse, UsageError
from innkeeper.keeper.client import Asked
from innkeeper.keeper.disks import disk_users
from innkeeper.keeper.guest import Guest
from innkeeper.keeper.messages import HoldStill
from innkeeper.model.machine import Machine
from innkeeper.model.record import State
from innkeeper.registry.layout import Layout

_ANSWER_LIMIT_S = 30.0
_SYNC_LIMIT_S = 60.0


class Stillness:
    """The keeper's side: who holds its guest still.

    :param on_change: called with the guest's state when it was paused, and when it goes on.
    """

    def __init__(self, machine: Machine, on_change: Callable[[State], None]) -> None:
        self._machine = machine
        self._on_change = on_change
        self._holders = 0
        # What is to go on when the last one lets go; None for one that was paused before.
        self._guest: Guest | None = None

    async def hold(self, guest: Guest, operation: HoldStill) -> None:
        """Pause the guest, if it has the disk.

        :raise UsageError: it has not.
        """
        writes = {use.name for use in self._machine.disks if not use.read_only}
        if operation.disk not in writes:
            raise UsageError(f"the guest does not write to a disk {operation.disk!r}")
        if self._holders == 0 and not guest.paused:
            await guest.pause()
            self._guest = guest
            self._on_change("paused")
        self._holders += 1

    async def let_go(self, current: Guest | None) -> None:
        """One less holds it; the last one lets it go on, if it is still the same life."""
        self._holders -= 1
        guest, last = self._guest, self._holders == 0
        if not last:
            return
        self._guest = None
        if guest is not None and guest is current and guest.paused:
            await guest.resume()
            self._on_change("running")

    def check_free(self) -> None:
        """See that nobody holds it still, before it goes on.

        :raise NameInUse: somebody does.
        """
        if self._holders:
            raise NameInUse(
                "the guest is held still while one of its disks is read",
                stage="keeper",
                fix="wait for the end of the export",
            )


def hold_guests_still(layout: Layout, disk: str, stack: contextlib.ExitStack) -> None:
    """Pause the guest that writes to a disk until the stack is closed, or this process dies.

    Before that it writes out what it has in memory, as far as its agent can have it.

    :raise NameInUse: no guest has the disk, so somebody else works on it.
    """
    found = False
    for name in disk_users(layout, disk).guests:
        _sync(layout, name)
        asked = Asked(layout, name, HoldStill(disk))
        try:
            asked.answer(timeout_s=_ANSWER_LIMIT_S)
        except (UsageError, GuestError):
            # Another disk's, or it ended in the meantime.
            asked.close()
            continue
        except BaseException:
            asked.close()
            raise
        stack.callback(asked.close)
        found = True
    if not found:
        raise NameInUse(
            f"the disk {disk!r} is in use, but by no running guest",
            stage="export",
            fix="another command works on it; try again when that is done",
        )


def _sync(layout: Layout, guest: str) -> None:
    from innkeeper.agent.control import ControlClient

    # A guest that is paused or stuck is read as it is: as after a power failure.
    with contextlib.suppress(InnError), ControlClient(layout.guest(guest).agent) as agent:
        agent.launch(["sync"], wait_for_exit=True, timeout_s=_SYNC_LIMIT_S)
