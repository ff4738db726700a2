# SPDX-License-Identifier: Apache-2.0
"""What speaks for the server with QEMU, and for QEMU with a server: over socket pairs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from innkeeper.errors import HostError
from innkeeper.shares import standin
from innkeeper.shares.standin import StandIn
from innkeeper.system.sockets import stream_pair
from innkeeper.system.vhost_user import Channel, Message

USED_AT = 0x300
REGION = 0x7F0000000000


def word(number: int) -> bytes:
    return number.to_bytes(8, "little")


class FakeServer:
    """A server that takes everything, and remembers it."""

    def __init__(self, channel: Channel, *, features: int = standin.FEATURES) -> None:
        self.heard: list[tuple[int, bytes]] = []
        self.features = features
        self.base = 9
        self._channel = channel
        self.task = asyncio.ensure_future(self._serve())

    async def _serve(self) -> None:
        try:
            await self._answer_all()
        finally:
            self._channel.close()

    async def _answer_all(self) -> None:
        while (message := await self._channel.receive()) is not None:
            message.close()
            request = message.request
            self.heard.append((request, message.payload))
            if request == standin.GET_FEATURES:
                self._channel.send(request, word(self.features), reply=True)
            elif request == standin.GET_PROTOCOL_FEATURES:
                self._channel.send(request, word(0x8C2B), reply=True)
            elif request == standin.GET_VRING_BASE:
                payload = message.payload[:4] + struct.pack("=I", self.base)
                self._channel.send(request, payload, reply=True)
            elif message.needs_reply:
                self._channel.send(request, word(0), reply=True)

    def said(self, request: int) -> list[bytes]:
        return [payload for known, payload in self.heard if known == request]


class Bench:
    """A stand-in with QEMU's side of it."""

    def __init__(self, memory: int) -> None:
        ours, theirs = stream_pair()
        self.stand_in = StandIn(ours)
        self.qemu = Channel(theirs)
        self._memory = memory

    async def ask(self, request: int, payload: bytes = b"") -> bytes:
        self.qemu.send(request, payload)
        return (await self._answer()).payload

    async def tell(self, request: int, payload: bytes, *fds: int) -> None:
        self.qemu.send(request, payload, fds=fds, needs_reply=True)
        assert (await self._answer()).number() == 0

    async def _answer(self) -> Message:
        answer = await self.qemu.receive()
        assert answer is not None
        return answer

    async def set_up(self) -> int:
        """What QEMU says when the guest's driver is ready; the kick of queue 1."""
        assert await self.ask(standin.GET_QUEUE_NUM) == word(2)
        await self.tell(standin.SET_FEATURES, word(standin.FEATURES))
        table = struct.pack("=II", 1, 0) + struct.pack("=QQQQ", 0, 4096, REGION, 0)
        await self.tell(standin.SET_MEM_TABLE, table, self._memory)
        kick = os.eventfd(0, os.EFD_NONBLOCK)
        for index in range(2):
            await self.tell(standin.SET_VRING_NUM, struct.pack("=II", index, 128))
            await self.tell(standin.SET_VRING_BASE, struct.pack("=II", index, 0))
            addresses = (REGION, REGION + USED_AT, REGION + 0x100, 0)
            await self.tell(
                standin.SET_VRING_ADDR,
                struct.pack("=II", index, 0) + struct.pack("=QQQQ", *addresses),
            )
            await self.tell(standin.SET_VRING_KICK, word(index), kick)
            await self.tell(standin.SET_VRING_ENABLE, struct.pack("=II", index, 1))
        return kick

    async def serve(self, **options: int) -> FakeServer:
        ours, theirs = stream_pair()
        server = FakeServer(Channel(theirs), **options)
        try:
            await self.stand_in.attach(ours)
        except HostError:
            await server.task
            raise
        return server

    async def close(self) -> None:
        await self.stand_in.close()
        self.qemu.close()


@contextlib.asynccontextmanager
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A stand-in; 42 requests of each queue were answered in its guest's memory."""
    path = tmp_path / "memory"
    path.write_bytes(bytes(USED_AT + 2) + struct.pack("<H", 42) + bytes(4096 - USED_AT - 4))
    fd = os.open(path, os.O_RDWR)
    made = Bench(fd)
    try:
        yield made
    finally:
        await made.close()
        os.close(fd)


def run(tmp_path: Path, check: Callable[[Bench], Awaitable[None]]) -> None:
    async def go() -> None:
        async with bench(tmp_path) as made:
            await asyncio.wait_for(check(made), 20)

    asyncio.run(go())


def test_qemu_needs_no_server(tmp_path: Path) -> None:
    async def check(made: Bench) -> None:
        assert await made.ask(standin.GET_FEATURES) == word(standin.FEATURES)
        kick = await made.set_up()
        # A driver that is unloaded hears where its queue was.
        answer = await made.ask(standin.GET_VRING_BASE, struct.pack("=II", 1, 0))
        assert struct.unpack("=II", answer) == (1, 42)
        os.close(kick)

    run(tmp_path, check)


def test_a_server_is_told_what_qemu_said_before(tmp_path: Path) -> None:
    async def check(made: Bench) -> None:
        kick = await made.set_up()
        server = await made.serve()
        assert server.said(standin.SET_FEATURES) == [word(standin.FEATURES)]
        assert len(server.said(standin.SET_MEM_TABLE)) == 1
        # It goes on after the last answer, and looks at once at what waits.
        assert server.said(standin.SET_VRING_BASE) == [struct.pack("=II", i, 42) for i in (0, 1)]
        order = [request for request, _ in server.heard]
        assert order.index(standin.SET_VRING_KICK) < order.index(standin.SET_VRING_ENABLE)
        assert os.eventfd_read(kick) == 2
        await made.tell(standin.SET_VRING_ENABLE, struct.pack("=II", 0, 0))
        assert server.said(standin.SET_VRING_ENABLE)[-1] == struct.pack("=II", 0, 0)
        answer = await made.ask(standin.GET_VRING_BASE, struct.pack("=II", 0, 0))
        assert struct.unpack("=II", answer) == (0, server.base)
        os.close(kick)

    run(tmp_path, check)


def test_another_server_takes_over(tmp_path: Path) -> None:
    async def check(made: Bench) -> None:
        first = await made.serve()
        kick = await made.set_up()
        first.task.cancel()
        made.stand_in.detach()
        await made.tell(standin.SET_VRING_ENABLE, struct.pack("=II", 1, 1))
        second = await made.serve()
        assert second.said(standin.SET_VRING_BASE) == [struct.pack("=II", i, 42) for i in (0, 1)]
        os.close(kick)

    run(tmp_path, check)


def test_a_server_that_cannot_is_refused(tmp_path: Path) -> None:
    async def check(made: Bench) -> None:
        with pytest.raises(HostError, match="did not take its task: it offers"):
            await made.serve(features=1 << 30)
        ours, theirs = stream_pair()
        theirs.close()
        with pytest.raises(HostError, match="did not take its task"):
            await made.stand_in.attach(ours)
        assert await made.ask(standin.GET_FEATURES) == word(standin.FEATURES)

    run(tmp_path, check)


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("=III", 1, 0, 0),
        struct.pack("=III", 1, 1, 5000),
        struct.pack("=III", standin.SET_VRING_NUM, 1, 8) + struct.pack("=II", 7, 1),
        struct.pack("=III", standin.SET_VRING_ADDR, 1, 8) + bytes(8),
        struct.pack("=III", standin.SET_VRING_KICK, 1, 8) + word(200),
        struct.pack("=III", 99, 1, 0),
        b"nonsense, and more of it",
    ],
)
def test_nonsense_from_qemu_ends_its_connection_alone(tmp_path: Path, raw: bytes) -> None:
    async def go() -> None:
        ours, theirs = stream_pair()
        stand_in = StandIn(ours)
        theirs.sendall(raw)
        theirs.shutdown(1)
        theirs.settimeout(0)
        await asyncio.wait_for(stand_in.ended, 10)
        await stand_in.close()
        theirs.close()

    asyncio.run(go())
