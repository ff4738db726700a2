# SPDX-License-Identifier: Apache-2.0
"""keeper.sock: operations, watchers, and clients that send something else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from innkeeper.errors import GuestError
from innkeeper.keeper.audience import Audience
from innkeeper.keeper.door import Door
from innkeeper.keeper.messages import (
    Answer,
    HoldStill,
    MemoryChanged,
    Operation,
    Pause,
    Resume,
    SetMemory,
    StateChanged,
    Stop,
)
from innkeeper.system.sockets import listen_unix

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
RUNNING = StateChanged(name="box", state="running", at=1.0)
STOPPED = StateChanged(name="box", state="stopped", at=2.0)


def with_door(
    path: Path,
    work: Callable[[Door, Callable[[], Awaitable[Streams]], list[Operation]], Awaitable[None]],
) -> None:
    async def run() -> None:
        done: list[Operation] = []

        async def carry_out(operation: Operation) -> Answer | None:
            await asyncio.sleep(0)
            if isinstance(operation, Pause):
                raise GuestError("it does not run")
            done.append(operation)
            if isinstance(operation, SetMemory):
                return MemoryChanged(operation.memory_bytes)
            return None

        async def let_go() -> None:
            await asyncio.sleep(0)
            done.append(Resume())

        door = Door(
            listen_unix(path),
            carry_out=carry_out,
            let_go=let_go,
            present=lambda: RUNNING,
            audience=Audience(),
        )
        await door.open()
        clients: list[asyncio.StreamWriter] = []

        async def connect() -> Streams:
            reader, writer = await asyncio.open_unix_connection(path)
            clients.append(writer)
            return reader, writer

        try:
            await asyncio.wait_for(work(door, connect, done), 10)
        finally:
            for writer in clients:
                writer.close()
            await door.close()

    asyncio.run(run())


async def ask(connect: Callable[[], Awaitable[Streams]], line: bytes) -> dict[str, object]:
    reader, writer = await connect()
    writer.write(line)
    answer = json.loads(await reader.readline())
    assert isinstance(answer, dict)
    return answer


def test_an_operation_is_answered_when_it_is_done(tmp_path: Path) -> None:
    async def work(
        _door: Door, connect: Callable[[], Awaitable[Streams]], done: list[Operation]
    ) -> None:
        assert await ask(connect, b'{"op": "stop", "timeout_s": 3}\n') == {"event": "done"}
        assert done == [Stop(3.0)]
        asked = b'{"op": "set-memory", "memory_bytes": 7, "timeout_s": 1}\n'
        assert await ask(connect, asked) == {"event": "memory", "memory_bytes": 7}
        refused = await ask(connect, b'{"op": "pause"}\n')
        assert refused["event"] == "refused"
        assert "it does not run" in str(refused["error"])

    with_door(tmp_path / "s", work)


def test_a_guest_is_held_still_for_as_long_as_the_connection_lasts(tmp_path: Path) -> None:
    async def work(
        _door: Door, connect: Callable[[], Awaitable[Streams]], done: list[Operation]
    ) -> None:
        reader, writer = await connect()
        writer.write(b'{"op": "hold-still", "disk": "data"}\n')
        assert json.loads(await reader.readline()) == {"event": "done"}
        assert done == [HoldStill("data")]
        writer.close()
        while done[-1] != Resume():  # noqa: ASYNC110 - what calls it knows no event
            await asyncio.sleep(0.001)

    with_door(tmp_path / "s", work)


def test_what_is_no_operation_is_refused(tmp_path: Path) -> None:
    async def work(
        _door: Door, connect: Callable[[], Awaitable[Streams]], done: list[Operation]
    ) -> None:
        for line in (b"\n", b"garbage\n", b'{"op": "format-disk"}\n', b"x" * 100_000 + b"\n"):
            assert (await ask(connect, line))["event"] == "refused"
        assert done == []

    with_door(tmp_path / "s", work)


def test_a_watcher_hears_the_present_state_and_every_later_one(tmp_path: Path) -> None:
    async def work(
        door: Door, connect: Callable[[], Awaitable[Streams]], _done: list[Operation]
    ) -> None:
        reader, writer = await connect()
        writer.write(b'{"op": "watch"}\n')
        assert json.loads(await reader.readline())["state"] == "running"
        door.tell(STOPPED)
        assert json.loads(await reader.readline())["state"] == "stopped"
        assert await reader.read() == b""

    with_door(tmp_path / "s", work)


def test_a_watcher_that_does_not_read_costs_bounded_memory(tmp_path: Path) -> None:
    async def work(
        door: Door, connect: Callable[[], Awaitable[Streams]], _done: list[Operation]
    ) -> None:
        reader, writer = await connect()
        writer.write(b'{"op": "watch"}\n')
        await reader.readline()
        for _ in range(100_000):
            door.tell(RUNNING)
        assert max(queue.qsize() for queue in door._watchers) <= 256

    with_door(tmp_path / "s", work)
