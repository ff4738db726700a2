# SPDX-License-Identifier: Apache-2.0
"""A guest's disks while it runs: how it found them, how full they are, and room on this host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from innkeeper.errors import OutOfSpace
from innkeeper.hypervisors.qemu.disks import LAYER_SERIAL, ROOT_SERIAL
from innkeeper.model.disk import DiskState, space_state
from innkeeper.model.sizes import MIB, format_size
from innkeeper.system.host import disk_free_bytes

if TYPE_CHECKING:
    from innkeeper.agent.disks import DiskReport, DiskSpace
    from innkeeper.keeper.guest import Guest
    from innkeeper.keeper.messages import StateChanged
    from innkeeper.keeper.plan import RunPlan
    from innkeeper.model.record import State

# What the guest writes to its root; no disk can be called so.
_ROOT_NAME = "/"

# A guest that stopped for want of space goes on with so much of it.
_ENOUGH_BYTES = 16 * MIB
# Nothing tells of space that comes back.
_LOOK_AGAIN_S = 1.0
_STARVED = "this host has no space left for its disks"


class DiskWatch:
    """What is known of the disks of a start, by what its guest tells.

    :param note: called with all of it whenever it changed.
    :param tell: called with a disk whose space is in another state than before.
    """

    def __init__(
        self,
        plan: RunPlan,
        *,
        note: Callable[[tuple[DiskState, ...]], None],
        tell: Callable[[DiskState], None],
    ) -> None:
        self._note = note
        self._tell = tell
        self._states = planned_disks(plan)
        self._folders = [Path(disk.file).parent for disk in plan.disks if not disk.read_only]
        if plan.layer is not None:
            self._folders.append(Path(plan.layer.path).parent)

    @property
    def any(self) -> bool:
        """Whether there is a disk to watch."""
        return bool(self._states)

    def found(self, reports: tuple[DiskReport, ...]) -> tuple[str, ...]:
        """The guest told how it found its disks; what a user has to know of it, as lines."""
        warnings = []
        for report in reports:
            state = self._states.get(report.serial)
            if state is None:
                continue
            self._states[report.serial] = msgspec.structs.replace(
                state, condition=report.condition, detail=report.detail
            )
            if report.condition == "PARTIAL_DATA_LOSS":
                told = f": {report.detail}" * bool(report.detail)
                warnings.append(f"disk {state.name!r}: PARTIAL_DATA_LOSS{told}")
        self._note(tuple(self._states.values()))
        return tuple(warnings)

    def filled(self, spaces: tuple[DiskSpace, ...]) -> None:
        """The guest told how full its disks are."""
        changed = []
        for space in spaces:
            state = self._states.get(space.serial)
            if state is None:
                continue
            now = msgspec.structs.replace(
                state,
                space=space_state(state.space, space.total_bytes, space.free_bytes),
                total_bytes=space.total_bytes,
                free_bytes=space.free_bytes,
            )
            self._states[space.serial] = now
            if now.space != (state.space or "NORMAL"):
                changed.append(now)
        self._note(tuple(self._states.values()))
        for disk in changed:
            self._tell(disk)

    def host_has_space(self) -> bool:
        """Whether this host has space for what the guest writes."""
        return all(_has_space(folder) for folder in self._folders)

    def out_of_space(self) -> OutOfSpace:
        """The error of a start for which this host has no space."""
        names = ", ".join(sorted({state.name for state in self._states.values()}))
        return OutOfSpace(
            f"this host has no space left for what the guest writes to {names}",
            stage="boot",
            evidence=tuple(str(folder) for folder in self._folders),
            fix="free some space there",
        )


class _Enter(Protocol):
    def __call__(self, state: State, *, reason: str) -> None: ...


async def feed(
    guest: Guest, disks: DiskWatch, *, present: Callable[[], StateChanged], enter: _Enter
) -> None:
    """Let a guest go on that was stopped for want of space, as soon as there is some.

    Ends by being cancelled, or with the guest.

    :param present: the guest's state now.
    :param enter: records another one.
    """
    while True:
        await guest.wait_starved()
        await _note_starved(guest, enter)
        while not disks.host_has_space():
            await asyncio.sleep(_LOOK_AGAIN_S)
            # Somebody may have let it go on too early.
            await _note_starved(guest, enter)
        if guest.paused and present().reason == _STARVED:
            await guest.resume()
            enter("running", reason="this host has space for its disks again")


async def _note_starved(guest: Guest, enter: _Enter) -> None:
    # One full disk makes many events, the last of which may come late.
    if not guest.paused and await guest.qemu.stopped_for_space():
        guest.paused = True
        enter("paused", reason=_STARVED)


def planned_disks(plan: RunPlan) -> dict[str, DiskState]:
    """The disks of a start by serial number, before anything is known of them."""
    states = {disk.serial: DiskState(name=disk.name, path=disk.path) for disk in plan.disks}
    if plan.layer is not None:
        serial = ROOT_SERIAL if plan.layer.copy_of else LAYER_SERIAL
        states[serial] = DiskState(name=_ROOT_NAME, path="/")
    return states


def describe_space(disk: DiskState) -> str:
    """How full a disk is, for people."""
    free, total = format_size(disk.free_bytes), format_size(disk.total_bytes)
    return f"disk {disk.name}: {disk.space}, {free} of {total} free"


def _has_space(folder: Path) -> bool:
    try:
        return disk_free_bytes(folder) >= _ENOUGH_BYTES
    except OSError:
        # Gone or unreachable: what the guest writes next tells.
        return True
