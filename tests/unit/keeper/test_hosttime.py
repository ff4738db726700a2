# SPDX-License-Identifier: Apache-2.0
"""What a guest is told when the host's clock or zone changes; a pipe plays the clock's jumps."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from innkeeper.errors import HostError
from innkeeper.keeper.hosttime import HostTime
from innkeeper.system import zone

EAST, WEST = b"TZif2 east", b"TZif2 west"


class Told:
    """Plays the announcement's server."""

    def __init__(self) -> None:
        self.news: list[object] = []
        self.changed = asyncio.Event()

    def say_clock(self) -> None:
        self._note("clock")

    def set_zone(self, name: str, tzif: bytes) -> None:
        self._note((name, tzif))

    def _note(self, news: object) -> None:
        self.news.append(news)
        self.changed.set()

    async def wait(self) -> object:
        await asyncio.wait_for(self.changed.wait(), 10)
        self.changed.clear()
        return self.news[-1]


class PlayedClock:
    """Jumps when :meth:`jump` is called."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()

    def jump(self) -> None:
        os.write(self._writer, b"x")

    def take(self) -> bool:
        return os.read(self.fd, 1) == b"x"

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._writer)
        self.fd = -1


@pytest.fixture
def localtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's zone file: a link to Test/East of a folder of zones."""
    folder = tmp_path / "zoneinfo"
    (folder / "Test").mkdir(parents=True)
    (folder / "Test/East").write_bytes(EAST)
    (folder / "Test/West").write_bytes(WEST)
    path = tmp_path / "etc/localtime"
    path.parent.mkdir()
    path.symlink_to(folder / "Test/East")
    monkeypatch.setattr(zone, "_ZONES", folder)
    monkeypatch.setenv("INN_LOCALTIME", str(path))
    monkeypatch.delenv("TZ", raising=False)
    return path


def follow(timezone: str, work: Callable[[Told, PlayedClock], object]) -> list[object]:
    """What was told while `work` ran."""

    async def run() -> list[object]:
        told, clock = Told(), PlayedClock()
        following = HostTime(told, timezone, tell=lambda _line: None, watch_clock=lambda: clock)
        told.changed.clear()
        try:
            result = work(told, clock)
            if asyncio.iscoroutine(result):
                await result
        finally:
            following.close()
            following.close()
        return told.news

    return asyncio.run(run())


def test_a_jump_of_the_hosts_clock_played_by_a_pipe_is_told(localtime: Path) -> None:
    async def work(told: Told, clock: PlayedClock) -> None:
        for _ in range(2):
            clock.jump()
            assert await told.wait() == "clock"

    assert follow("guest", work) == ["clock", "clock"]
    assert localtime.is_symlink()


def test_another_zone_of_the_host_is_told_once(localtime: Path) -> None:
    async def work(told: Told, clock: PlayedClock) -> None:
        (localtime.parent / "resolv.conf").write_text("something else")
        new = localtime.with_name("new")
        new.symlink_to("../zoneinfo/Test/West")
        new.rename(localtime)
        assert await told.wait() == ("Test/West", WEST)
        clock.jump()
        assert await told.wait() == "clock"

    assert follow("host", work) == [("Test/East", EAST), ("Test/West", WEST), "clock"]


@pytest.mark.parametrize(
    ("timezone", "news"),
    [("utc", [("Etc/UTC", zone.UTC.tzif)]), ("Test/West", [("Test/West", WEST)]), ("guest", [])],
)
def test_a_zone_that_is_given_stays(localtime: Path, timezone: str, news: list[object]) -> None:
    def work(_told: Told, _clock: PlayedClock) -> None:
        localtime.unlink()

    assert follow(timezone, work) == news


def test_a_host_that_cannot_be_watched_is_no_reason_to_fail(localtime: Path) -> None:
    def refuse() -> PlayedClock:
        raise HostError("no timers left")

    async def run() -> list[str]:
        lines: list[str] = []
        HostTime(Told(), "host", tell=lines.append, watch_clock=refuse).close()
        return lines

    assert asyncio.run(run()) == ["the guest does not follow the host's time: no timers left"]
    assert localtime.is_symlink()
