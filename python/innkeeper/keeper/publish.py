# SPDX-License-Identifier: Apache-2.0
"""Published ports of a guest that has an address of its own: bound here, carried to it.

A relay and no NAT rule: it binds the address that was asked for, loopback
included, says at once when that is taken, and needs no change of the host's
routing. The guest sees the host as the client, as on the user network.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import cast

from innkeeper.errors import HostError
from innkeeper.keeper.relay import Relay
from innkeeper.model.ports import PublishedPort
from innkeeper.system.ports import listen_port
from innkeeper.system.sockets import StreamSocket

_FLOWS_LIMIT = 256
# RFC 4787, REQ-5: a UDP mapping lives for two minutes at least.
_FLOW_IDLE_S = 120.0
# Datagrams that wait for their flow to the guest.
_WAITING_LIMIT = 32

Address = tuple[str, int]


async def dial_address(
    port: int, address: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream to a port of a guest that the host has a route to."""
    return await asyncio.open_connection(address, port)


def _bind(port: PublishedPort) -> StreamSocket:
    # `prepare` looked already, and named the process; this one comes too late for that.
    try:
        return listen_port(port.protocol, port.address, port.host_port)
    except OSError as exc:
        raise HostError(
            f"port {port.host_port}/{port.protocol} of {port.address} cannot be published: "
            f"{exc.strerror or exc}",
            stage="ports",
            fix="publish another port of the host, or stop what has this one",
        ) from exc


class Publisher:
    """The published ports of one guest, bound from the beginning on. Close it."""

    def __init__(self, ports: Iterable[PublishedPort], guest_address: str) -> None:
        """Bind all ports.

        :raise HostError: one is taken, or not ours to bind.
        """
        self._guest_address = guest_address
        self._relay = Relay(dial_address)
        self._servers: list[asyncio.Server] = []
        self._doors: list[_Door] = []
        self._bound: list[tuple[PublishedPort, StreamSocket]] = []
        try:
            for port in ports:
                sock = _bind(port)
                self._bound.append((port, sock))
        except BaseException:
            self._close_bound()
            raise

    async def start(self) -> None:
        """Begin to serve them."""
        loop = asyncio.get_running_loop()
        while self._bound:
            port, sock = self._bound[0]
            if port.protocol == "tcp":
                server = await self._relay.serve(
                    sock, port.guest_port, guest_address=self._guest_address
                )
                self._servers.append(server)
            else:
                guest = (self._guest_address, port.guest_port)
                _, door = await loop.create_datagram_endpoint(
                    lambda guest=guest: _Door(guest),  # type: ignore[misc] # bound early
                    sock=sock,
                )
                self._doors.append(door)
            self._bound.pop(0)

    async def close(self) -> None:
        """Close all ports and their connections. Idempotent."""
        self._close_bound()
        for server in self._servers:
            server.close()
        for door in self._doors:
            door.close()
        await self._relay.close()

    def _close_bound(self) -> None:
        while self._bound:
            self._bound.pop()[1].close()


class _Door(asyncio.DatagramProtocol):
    """A UDP port of the host: each sender gets a socket of its own towards the guest."""

    def __init__(self, guest: Address) -> None:
        self._guest = guest
        self._transport: asyncio.DatagramTransport | None = None
        self._flows: dict[Address, _Flow] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        flow = self._flows.get(addr)
        if flow is None:
            if len(self._flows) >= _FLOWS_LIMIT:
                return  # datagrams may be lost
            flow = self._flows[addr] = _Flow(self, addr, self._guest)
        flow.send(data)

    def answer(self, data: bytes, addr: Address) -> None:
        """A datagram of the guest for one sender."""
        if self._transport is not None:
            self._transport.sendto(data, addr)

    def forget(self, addr: Address) -> None:
        """A flow is over."""
        self._flows.pop(addr, None)

    def close(self) -> None:
        """Close the port and all flows. Idempotent."""
        for flow in list(self._flows.values()):
            flow.close()
        if self._transport is not None:
            self._transport.abort()


class _Flow(asyncio.DatagramProtocol):
    """One sender's socket towards the guest; it closes when nothing comes for a while."""

    def __init__(self, door: _Door, sender: Address, guest: Address) -> None:
        self._door = door
        self._sender = sender
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.DatagramTransport | None = None
        self._waiting: list[bytes] = []
        self._idle = self._loop.call_later(_FLOW_IDLE_S, self.close)
        self._opening = self._loop.create_task(self._open(guest))

    async def _open(self, guest: Address) -> None:
        with contextlib.suppress(OSError):
            await self._loop.create_datagram_endpoint(lambda: self, remote_addr=guest)
            return
        self.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        for data in self._waiting:
            self._transport.sendto(data)
        self._waiting.clear()

    def datagram_received(self, data: bytes, addr: Address) -> None:  # noqa: ARG002 - asyncio's
        self._stay()
        self._door.answer(data, self._sender)

    def send(self, data: bytes) -> None:
        """A datagram of the sender, for the guest."""
        self._stay()
        if self._transport is not None:
            self._transport.sendto(data)
        elif len(self._waiting) < _WAITING_LIMIT:
            self._waiting.append(data)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._idle.cancel()
        self._opening.cancel()
        self._door.forget(self._sender)
        if self._transport is not None:
            self._transport.abort()

    def _stay(self) -> None:
        self._idle.cancel()
        self._idle = self._loop.call_later(_FLOW_IDLE_S, self.close)
