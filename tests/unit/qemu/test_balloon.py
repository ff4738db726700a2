# SPDX-License-Identifier: Apache-2.0
"""The balloon against a monitor that plays QEMU and its guest."""

from __future__ import annotations

import asyncio

import pytest
from qemu.qmp import QMPError

from innkeeper.errors import GuestError, TimedOut, UsageError
from innkeeper.hypervisors.qemu.balloon import bounded_size, set_balloon
from innkeeper.model.sizes import MIB

STARTED = 512 * MIB


class Played:
    """A guest that changes its size by at most `step` bytes between two looks."""

    def __init__(self, step: int, *, lowest: int = 0) -> None:
        self.size = self.target = STARTED
        self._step = step
        self._lowest = lowest

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        if command == "balloon":
            assert arguments is not None
            assert isinstance(arguments["value"], int)
            self.target = arguments["value"]
            return {}
        assert command == "query-balloon"
        way = max(-self._step, min(self._step, self.target - self.size))
        self.size = max(self._lowest, self.size + way)
        return {"actual": self.size}


def run(played: Played, target: int, *, limit_s: float = 5.0) -> int:
    return asyncio.run(set_balloon(played, target, started_bytes=STARTED, limit_s=limit_s))


def test_it_waits_until_the_guest_is_there() -> None:
    played = Played(100 * MIB)
    assert run(played, 256 * MIB) == 256 * MIB
    assert run(played, STARTED) == STARTED


def test_how_far_a_guest_came() -> None:
    played = Played(100 * MIB, lowest=300 * MIB)
    with pytest.raises(TimedOut, match=r"has 300M of memory after 0\.3 s, not yet the 128M"):
        run(played, 128 * MIB, limit_s=0.3)
    # It is not given up: the guest goes on trying.
    assert played.target == 128 * MIB


@pytest.mark.parametrize("target", [STARTED + MIB, 95 * MIB, 128 * MIB + 1])
def test_sizes_that_are_not_possible(target: int) -> None:
    played = Played(MIB)
    with pytest.raises(UsageError):
        run(played, target)
    assert played.target == STARTED


def test_a_refusal_of_qemu_is_told() -> None:
    class Refusing(Played):
        async def execute(self, command: str, arguments: dict[str, object] | None = None) -> object:  # noqa: ARG002
            raise QMPError("no balloon")

    with pytest.raises(GuestError, match="QEMU refused balloon: no balloon"):
        run(Refusing(MIB), 256 * MIB)


def test_what_a_guest_says_is_bounded() -> None:
    assert bounded_size(-5, STARTED) == 0
    assert bounded_size(1 << 60, STARTED) == STARTED
    assert bounded_size("much", STARTED) == STARTED
