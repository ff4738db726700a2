# SPDX-License-Identifier: Apache-2.0
"""Who holds a guest still, and when it goes on."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from innkeeper.errors import NameInUse, UsageError
from innkeeper.keeper.guest import Guest
from innkeeper.keeper.messages import HoldStill
from innkeeper.keeper.still import Stillness
from innkeeper.model.disk import DiskUse
from innkeeper.model.machine import Machine
from innkeeper.model.record import State

MACHINE = Machine(
    name="box",
    disks=(
        DiskUse(name="data", path="/mnt/data"),
        DiskUse(name="read", path="/mnt/read", read_only=True),
    ),
)


class FakeGuest:
    """A guest that knows whether it is paused."""

    def __init__(self, *, paused: bool = False) -> None:
        self.paused = paused

    async def pause(self) -> None:
        self.paused = True

    async def resume(self) -> None:
        self.paused = False


def guest(*, paused: bool = False) -> Guest:
    return cast("Guest", FakeGuest(paused=paused))


def test_the_last_one_who_lets_go_lets_it_go_on() -> None:
    states: list[State] = []
    still, box = Stillness(MACHINE, states.append), guest()

    async def run() -> None:
        await still.hold(box, HoldStill("data"))
        await still.hold(box, HoldStill("data"))
        with pytest.raises(NameInUse, match="held still"):
            still.check_free()
        await still.let_go(box)
        assert box.paused
        await still.let_go(box)
        still.check_free()

    asyncio.run(run())
    assert not box.paused
    assert states == ["paused", "running"]


def test_a_guest_that_was_paused_stays_so() -> None:
    states: list[State] = []
    still, box = Stillness(MACHINE, states.append), guest(paused=True)

    async def run() -> None:
        await still.hold(box, HoldStill("data"))
        await still.let_go(box)

    asyncio.run(run())
    assert box.paused
    assert states == []


def test_the_next_life_is_left_alone() -> None:
    states: list[State] = []
    still, box, following = Stillness(MACHINE, states.append), guest(), guest(paused=True)

    async def run() -> None:
        await still.hold(box, HoldStill("data"))
        await still.let_go(following)

    asyncio.run(run())
    assert following.paused
    assert states == ["paused"]


@pytest.mark.parametrize("disk", ["read", "other"])
def test_a_disk_that_it_does_not_write_to(disk: str) -> None:
    still = Stillness(MACHINE, lambda _state: None)
    with pytest.raises(UsageError, match="does not write"):
        asyncio.run(still.hold(guest(), HoldStill(disk)))
    still.check_free()
