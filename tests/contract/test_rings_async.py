# SPDX-License-Identifier: Apache-2.0
"""The asyncio client on a board: tasks that wait for messages, for room, for an end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from innkeeper import AsyncRings
from innkeeper._core import RingBoard
from innkeeper.rings import Rings

ME = 7


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    fds = []
    for name in ("guest", "host"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(tmp_path / name))
            listener.listen()
            fds.append(listener.detach())
    board = RingBoard(guest=ME, guest_fd=fds[0], host_fd=fds[1], rules=([], [], [], False))
    yield tmp_path / "guest"
    board.close()


def test_a_reader_and_senders_that_wait_for_room(path: Path) -> None:
    async def run() -> list[bytes]:
        async with AsyncRings(Rings.open(path)) as reader, AsyncRings(Rings.open(path)) as sender:
            reader.sync.register(80, ME, size_bytes=256)
            port = sender.sync.bind()

            async def send(number: int) -> None:
                assert await sender.send(port, (ME, 80), bytes([number]) * 100) == 100

            async with asyncio.TaskGroup() as tasks:
                for number in range(20):
                    tasks.create_task(send(number))
                found: list[bytes] = []
                async for message in reader.messages(80, ME):
                    assert message.sender == (ME, port)
                    found.append(message.data)
                    if len(found) == 20:
                        break
            return found

    assert sorted(asyncio.run(run())) == [bytes([number]) * 100 for number in range(20)]


def test_a_ring_that_is_not_there_and_a_task_that_gives_up(path: Path) -> None:
    async def run() -> None:
        async with AsyncRings(Rings.open(path)) as rings:
            with pytest.raises(FileNotFoundError):
                await anext(rings.messages(80, ME))
            rings.sync.register(80, ME)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(rings.messages(80, ME)), 0.01)
            rings.sync.sendv((ME, 80), (ME, 80), [b"still there"])
            assert (await anext(rings.messages(80, ME))).data == b"still there"

    asyncio.run(run())


def test_who_waits_learns_that_all_is_closed(path: Path) -> None:
    async def run() -> None:
        rings = AsyncRings(Rings.open(path))
        rings.sync.register(80, ME)
        waits = asyncio.ensure_future(anext(rings.messages(80, ME)))
        await asyncio.sleep(0)
        await rings.close()
        await rings.close()
        with pytest.raises(ConnectionAbortedError):
            await waits

    asyncio.run(run())
