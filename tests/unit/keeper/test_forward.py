# SPDX-License-Identifier: Apache-2.0
"""Forwarding against a device and agent played in process."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

from innkeeper.agent.frames import encode_frame
from innkeeper.agent.pb import forward_pb2
from innkeeper.agent.ports import ListeningPort
from innkeeper.keeper.forward import Forwarder, choose

DATA = bytes(range(256)) * 4096

Guest = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def tcp(port: int, address: str = "127.0.0.1") -> ListeningPort:
    return ListeningPort("tcp", port, address, loopback=False)


def test_what_is_led_to() -> None:
    udp = ListeningPort("udp", 5353, "0.0.0.0", loopback=False)
    ports = (tcp(80), tcp(8080, "::"), tcp(8080), tcp(9000, "::1"), udp)
    assert choose(ports) == {8080: "127.0.0.1", 9000: "::1"}
    many = tuple(tcp(port) for port in range(2000, 3000))
    assert len(choose(many)) == 128


def answered(number: int, guest: Guest) -> Guest:
    """A device whose agent gives this answer and then behaves like `guest`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"CONNECT 9002\n"
        writer.write(b"OK 1\n")
        length = int.from_bytes(await reader.readexactly(4), "little")
        request = forward_pb2.ForwardRequest.FromString(await reader.readexactly(length))
        assert request.protocol == forward_pb2.PROTOCOL_TCP
        response = forward_pb2.ForwardResponse(error_number=number)
        writer.write(encode_frame(response.SerializeToString()))
        with contextlib.suppress(ConnectionError):
            await guest(reader, writer)
        writer.close()

    return serve


def run(guest: Guest, test: Callable[[Forwarder, int], Awaitable[None]]) -> None:
    async def played() -> None:
        with tempfile.TemporaryDirectory(prefix="inn-", dir="/tmp") as folder:
            path = Path(folder) / "s"
            device = await asyncio.start_unix_server(guest, path)
            said: asyncio.Queue[str] = asyncio.Queue()
            forwarder = Forwarder(path, tell=said.put_nowait)
            try:
                forwarder.update((tcp(41_000),))
                await said.get()
                await test(forwarder, forwarder.ports[41_000])
                forwarder.update(())
                assert "is closed" in await said.get()
                assert forwarder.ports == {}
            finally:
                await forwarder.close()
                await forwarder.close()
                device.close()

    asyncio.run(asyncio.wait_for(played(), 30))


def test_bytes_after_the_guests_end_of_file_arrive() -> None:
    got: asyncio.Queue[bytes] = asyncio.Queue()

    async def guest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"first")
        writer.write_eof()
        got.put_nowait(await reader.read(-1))

    async def test(_forwarder: Forwarder, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read(-1) == b"first"
        writer.write(DATA)
        writer.write_eof()
        assert await got.get() == DATA
        writer.close()
        await writer.wait_closed()

    run(answered(0, guest), test)


def test_a_refusal_ends_the_connection() -> None:
    async def guest(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async def test(_forwarder: Forwarder, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            assert await reader.read(-1) == b""
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    run(answered(111, guest), test)
