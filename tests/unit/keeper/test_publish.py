# SPDX-License-Identifier: Apache-2.0
"""Published ports, with a "guest" that is on this host's loopback."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import pytest

from innkeeper.errors import HostError
from innkeeper.keeper.publish import Publisher
from innkeeper.model.ports import Protocol, PublishedPort

GUEST = "127.0.0.2"


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def published(protocol: Protocol, guest_port: int) -> PublishedPort:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    return PublishedPort(host_port=free_port(kind), guest_port=guest_port, protocol=protocol)


class Echo(asyncio.DatagramProtocol):
    """A guest's server that answers each datagram with it and its sender's port."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data + b" %d" % addr[1], addr)


class Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.got: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, _addr: tuple[str, int]) -> None:
        self.got.put_nowait(data)


def test_datagrams_go_there_and_back_to_their_sender() -> None:
    async def play() -> None:
        loop = asyncio.get_running_loop()
        server, _ = await loop.create_datagram_endpoint(Echo, local_addr=(GUEST, 0))
        port = published("udp", server.get_extra_info("sockname")[1])
        publisher = Publisher([port], GUEST)
        clients = []
        try:
            await publisher.start()
            answers = []
            for word in (b"one", b"two"):
                there = (port.address, port.host_port)
                client, protocol = await loop.create_datagram_endpoint(Client, remote_addr=there)
                clients.append(client)
                client.sendto(word)
                answers.append(await asyncio.wait_for(protocol.got.get(), 5))
            assert [answer.split()[0] for answer in answers] == [b"one", b"two"]
            # Two senders are two for the guest.
            assert answers[0].split()[1] != answers[1].split()[1]
        finally:
            for client in clients:
                client.close()
            server.close()
            await publisher.close()
            await asyncio.sleep(0)

    asyncio.run(play())


def test_a_stream_goes_both_ways() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        await writer.drain()
        writer.close()

    async def play() -> None:
        server = await asyncio.start_server(serve, GUEST, 0)
        port = published("tcp", server.sockets[0].getsockname()[1])
        publisher = Publisher([port], GUEST)
        await publisher.start()
        reader, writer = await asyncio.open_connection(port.address, port.host_port)
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"HELLO"
        writer.close()
        await writer.wait_closed()
        server.close()
        await publisher.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(port.address, port.host_port)

    asyncio.run(play())


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_that_is_taken_is_told_when_it_is_bound(protocol: Protocol) -> None:
    async def play() -> None:
        first = published("tcp", 80)
        port = published(protocol, 80)
        holder = Publisher([port], GUEST)
        with pytest.raises(
            HostError, match=f"{port.host_port}/{protocol} .*: Address already in use"
        ):
            Publisher([first, port], GUEST)
        # What was bound before it is free again.
        await Publisher([first], GUEST).close()
        await holder.close()

    asyncio.run(play())


def test_an_address_that_the_host_has_not() -> None:
    async def play() -> None:
        port = PublishedPort(address="192.0.2.77", host_port=8080, guest_port=80)
        with pytest.raises(HostError, match="Cannot assign requested address"):
            Publisher([port], GUEST)

    asyncio.run(play())
