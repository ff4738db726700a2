# SPDX-License-Identifier: Apache-2.0
"""The announcement's server, with good and bad agents."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from innkeeper.agent import announce
from innkeeper.agent.announce import AnnounceServer, Failure, Hello
from innkeeper.agent.frames import encode_frame
from innkeeper.agent.pb import announce_pb2
from innkeeper.agent.ports import ListeningPort
from innkeeper.system.sockets import listen_unix

HELLO = Hello("1.0", "6.12", is_init=True, boot_id="b", started_ns=1, ready_ns=2)


def hello(version: str = "1.0") -> bytes:
    fields = announce_pb2.Hello(
        agent_version=version,
        kernel_release="6.12",
        is_init=True,
        boot_id="b",
        started_ns=1,
        ready_ns=2,
    )
    return encode_frame(announce_pb2.AgentMessage(hello=fields).SerializeToString())


def failure(what: str) -> bytes:
    fields = announce_pb2.Failure(what=what, detail="d")
    return encode_frame(announce_pb2.AgentMessage(failure=fields).SerializeToString())


WELCOME = encode_frame(
    announce_pb2.HostMessage(welcome=announce_pb2.Welcome(wall_clock_ns=42)).SerializeToString()
)


class Host:
    """A server and what it told."""

    def __init__(self, path: Path, grace_s: float) -> None:
        self.path = path
        self.told: list[object] = []
        self.server = AnnounceServer(
            listen_unix(path),
            grace_s=grace_s,
            on_hello=self.told.append,
            on_lost=lambda: self.told.append("lost"),
            on_failure=self.told.append,
            wall_clock_ns=lambda: 42,
        )
        self.writers: list[asyncio.StreamWriter] = []

    async def dial(self, content: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_unix_connection(self.path)
        self.writers.append(writer)
        writer.write(content)
        return reader, writer


@asynccontextmanager
async def serving(grace_s: float = 0.0) -> AsyncIterator[Host]:
    with tempfile.TemporaryDirectory(prefix="inn-", dir="/tmp") as name:
        host = Host(Path(name) / "s", grace_s)
        host.server.start()
        try:
            yield host
        finally:
            await host.server.close()
            await host.server.close()
            for writer in host.writers:
                writer.close()
                await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), 20)

    asyncio.run(limited())


async def dropped(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionError:
        return True


def test_hello_failure_and_loss() -> None:
    async def test() -> None:
        async with serving() as host:
            reader, writer = await host.dial(hello() + failure("a\nb"))
            assert await host.server.hello() == HELLO
            assert await reader.readexactly(len(WELCOME)) == WELCOME
            assert not host.server.lost.done()
            writer.close()
            await host.server.lost
            assert host.told == [HELLO, Failure("a\ufffdb", "d"), "lost"]
            assert host.server.failures == [Failure("a\ufffdb", "d")]

    run(test)


def test_the_newest_wins_and_is_no_loss() -> None:
    async def test() -> None:
        async with serving() as host:
            first, _ = await host.dial(hello("1"))
            await first.readexactly(len(WELCOME))
            second, _ = await host.dial(hello("2"))
            await second.readexactly(len(WELCOME))
            assert await dropped(first)
            assert [told.agent_version for told in host.told if isinstance(told, Hello)] == [
                "1",
                "2",
            ]
            assert not host.server.lost.done()

    run(test)


def test_a_return_within_the_grace_is_no_loss() -> None:
    async def test() -> None:
        async with serving(grace_s=30) as host:
            first, writer = await host.dial(hello())
            await first.readexactly(len(WELCOME))
            writer.close()
            second, _ = await host.dial(hello())
            await second.readexactly(len(WELCOME))
            assert "lost" not in host.told
            assert not host.server.lost.done()

    run(test)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff",
        b"\x01\0\x01\0",
        encode_frame(b"\xff"),
        encode_frame(b""),
        failure("before any hello"),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_garbage_closes_only_its_connection(garbage: bytes) -> None:
    async def test() -> None:
        async with serving() as host:
            good, _ = await host.dial(hello())
            await good.readexactly(len(WELCOME))
            bad, _ = await host.dial(garbage)
            assert await dropped(bad)
            assert host.told == [HELLO]
            assert not host.server.lost.done()

    run(test)


def test_a_second_hello_on_one_connection_is_garbage() -> None:
    async def test() -> None:
        async with serving() as host:
            reader, _ = await host.dial(hello() + hello())
            await host.server.lost
            assert host.told == [HELLO, "lost"]
            assert (await asyncio.gather(reader.read(), return_exceptions=True)) is not None

    run(test)


def test_silence_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announce, "_HELLO_TIMEOUT_S", 0.01)

    async def test() -> None:
        async with serving() as host:
            reader, _ = await host.dial(b"\x10")
            assert await dropped(reader)

    run(test)


def test_a_flood_cannot_keep_the_agent_out() -> None:
    async def test() -> None:
        async with serving() as host:
            silent = [await host.dial(b"") for _ in range(20)]
            agent, _ = await host.dial(hello())
            await agent.readexactly(len(WELCOME))
            assert all([await dropped(reader) for reader, _ in silent[:16]])
            late, _ = await host.dial(hello("2"))
            await late.readexactly(len(WELCOME))

    run(test)


def test_failures_are_bounded() -> None:
    async def test() -> None:
        async with serving() as host:
            _, writer = await host.dial(hello() + b"".join(failure(str(n)) for n in range(200)))
            await writer.drain()
            writer.close()
            await host.server.lost
            assert len(host.server.failures) == 64

    run(test)


def test_ports_are_told_only_where_asked() -> None:
    ports = announce_pb2.Ports(
        ports=[announce_pb2.ListeningPort(protocol=1, address="::", port=8080)]  # type: ignore[arg-type]
    )
    told = encode_frame(announce_pb2.AgentMessage(ports=ports).SerializeToString())
    asked = b"".join(
        encode_frame(message.SerializeToString())
        for message in (
            announce_pb2.HostMessage(watch_ports=announce_pb2.WatchPorts()),
            announce_pb2.HostMessage(relay_logs=announce_pb2.RelayLogs()),
        )
    )

    async def test() -> None:
        async with serving() as host:
            reader, _ = await host.dial(hello() + told)
            await reader.readexactly(len(WELCOME))
            assert await dropped(reader)
        async with serving() as host:
            seen: asyncio.Queue[object] = asyncio.Queue()
            host.server._on_ports = seen.put_nowait
            host.server._relay_logs = True
            reader, _ = await host.dial(hello() + told)
            assert await reader.readexactly(len(WELCOME + asked)) == WELCOME + asked
            assert await seen.get() == (ListeningPort("tcp", 8080, "::", False),)

    run(test)


def test_the_zone_is_told_after_each_hello_and_when_it_changes() -> None:
    def frame(name: str) -> bytes:
        zone = announce_pb2.Zone(name=name, tzif=b"TZif")
        return encode_frame(announce_pb2.HostMessage(zone=zone).SerializeToString())

    async def run() -> None:
        async with serving() as host:
            host.server.set_zone("Test/East", b"TZif")
            reader, _ = await host.dial(hello())
            east = WELCOME + frame("Test/East")
            assert await reader.readexactly(len(east)) == east
            host.server.set_zone("Test/West", b"TZif")
            assert await reader.readexactly(len(frame("Test/West"))) == frame("Test/West")
            again, _ = await host.dial(hello())
            west = WELCOME + frame("Test/West")
            assert await again.readexactly(len(west)) == west

    asyncio.run(run())
