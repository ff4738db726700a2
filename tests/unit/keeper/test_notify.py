# SPDX-License-Identifier: Apache-2.0
"""What is told to a guest of changes, and how often."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from innkeeper.agent.changes import changes_frames
from innkeeper.agent.frames import MESSAGE_LIMIT
from innkeeper.agent.pb import announce_pb2
from innkeeper.keeper import notify
from innkeeper.keeper.notify import Notifier
from innkeeper.model.share import Share
from innkeeper.system.tree_watch import Change


class Lines(list[str]):
    """What the user is told."""

    def __init__(self) -> None:
        super().__init__()
        self.news = asyncio.Event()

    def append(self, line: str) -> None:
        super().append(line)
        self.news.set()


class Agent:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.watched: list[str] = []
        self.told: list[tuple[str, bytes, bool]] = []
        self.unsent = 0
        self.news = asyncio.Event()

    def set_watched(self, frame: bytes) -> None:
        self.watched = list(announce_pb2.HostMessage.FromString(frame[4:]).watched.keys)

    def unsent_bytes(self) -> int:
        return self.unsent

    def send(self, frame: bytes) -> None:
        changes = announce_pb2.HostMessage.FromString(frame[4:]).changes.changes
        self.told += [(each.key, each.path, each.gone) for each in changes]
        self.news.set()


def run(body: Callable[[Agent, Notifier, Lines], object]) -> None:
    """Run a test's coroutine with a notifier."""

    async def main() -> None:
        agent, lines = Agent(), Lines()
        notifier = Notifier(agent, lines.append)  # type: ignore[arg-type]  # the part it uses
        try:
            await body(agent, notifier, lines)  # type: ignore[misc]
        finally:
            notifier.close()

    asyncio.run(main())


def test_a_file_that_is_written_again_and_again_is_told_now_and_then(tmp_path: Path) -> None:
    async def body(agent: Agent, notifier: Notifier, lines: Lines) -> None:
        share = Share(host=str(tmp_path), guest="/a")
        await notifier.follow([share])
        assert agent.watched == [share.key]
        for number in range(100):
            (tmp_path / "file").write_text(str(number))
        await agent.news.wait()
        assert agent.told == [(share.key, b"file", False)]
        (tmp_path / "other").touch()
        (tmp_path / "file").write_text("again")
        agent.news.clear()
        await agent.news.wait()
        assert agent.told[1] == (share.key, b"other", False)
        while len(agent.told) < 3:
            agent.news.clear()
            await agent.news.wait()
        assert agent.told[2] == (share.key, b"file", False)
        assert lines == []

    run(body)


def test_what_waits_is_bounded_and_its_loss_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "_WAITING_LIMIT", 10)

    async def body(agent: Agent, notifier: Notifier, lines: Lines) -> None:
        await notifier.follow([Share(host=str(tmp_path), guest="/a")])
        # An agent that does not read.
        agent.unsent = 1 << 30
        for number in range(30):
            (tmp_path / f"{number:02}").touch()
        await lines.news.wait()
        assert "changes were lost 20 times" in lines[0]
        assert agent.told == []
        agent.unsent = 0
        await agent.news.wait()
        assert len(agent.told) == 10

    run(body)


def test_a_share_that_is_taken_away_is_silent(tmp_path: Path) -> None:
    async def body(agent: Agent, notifier: Notifier, _lines: Lines) -> None:
        shares = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            shares.append(Share(host=str(tmp_path / name), guest=f"/{name}"))
        first = notifier.follow(shares[:1])
        # Before the first is done.
        assert notifier.follow(shares) is first
        await first
        assert set(agent.watched) == {share.key for share in shares}
        await notifier.follow(shares[1:])
        assert agent.watched == [shares[1].key]
        (tmp_path / "one" / "x").touch()
        (tmp_path / "two" / "x").touch()
        await agent.news.wait()
        assert agent.told == [(shares[1].key, b"x", False)]

    run(body)


def test_frames_keep_their_limit() -> None:
    changes = [Change("0123456789abcdef", b"x" * 4095, True) for _ in range(100)]
    frames = list(changes_frames(changes))
    assert all(len(frame) <= MESSAGE_LIMIT for frame in frames)
    total = sum(
        len(announce_pb2.HostMessage.FromString(frame[4:]).changes.changes) for frame in frames
    )
    assert total == 100
    assert all(struct.unpack("<I", frame[:4])[0] == len(frame) - 4 for frame in frames)
    assert list(changes_frames([])) == []
