# SPDX-License-Identifier: Apache-2.0
"""Flow control between a channel and a task."""

from __future__ import annotations

import asyncio

from innkeeper.ssh.flow import Gate, Inbox


class Source:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")


def test_a_full_inbox_holds_its_source_back() -> None:
    async def scenario() -> None:
        inbox, source = Inbox(), Source()
        for _ in range(13):
            inbox.put(bytes(64 << 10), source)
        assert source.calls == ["pause"]
        for _ in range(9):
            assert len(await inbox.take()) == 64 << 10
        assert source.calls == ["pause", "resume"]
        inbox.end()
        for _ in range(4):
            assert len(await inbox.take()) == 64 << 10
        assert await inbox.take() == b""
        assert await inbox.take() == b"", "the end stays the end"

    asyncio.run(scenario())


def test_who_waits_is_woken() -> None:
    async def scenario() -> None:
        inbox, gate = Inbox(), Gate()
        gate.shut()
        taking = asyncio.ensure_future(inbox.take())
        passing = asyncio.ensure_future(gate.passed())
        await asyncio.sleep(0)
        assert not taking.done()
        assert not passing.done()
        inbox.put(b"x", Source())
        gate.open()
        assert await taking == b"x"
        await passing

    asyncio.run(scenario())
