# SPDX-License-Identifier: Apache-2.0
"""Connections to a TCP port of the host, carried to one of a guest.

::

    host TCP <-> this loop <-> vsock <-> agent (port 9002) <-> guest TCP

The guest needs no network, and its listeners on the loopback count. Each
direction ends on its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from innkeeper.agent.ports import FORWARD_PORT, answer_length, check_answer, forward_request
from innkeeper.errors import InnError
from innkeeper.system.sockets import StreamSocket

_CONNECTIONS_LIMIT = 256
_PIECE_BYTES = 64 * 1024
_DIAL_TIMEOUT_S = 20.0


Dial = Callable[[int, str], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Makes a stream to a port and an address of the guest; may raise what :func:`dial` does."""


class Relay:
    """The connections to one guest, of whatever ports. Close it, and its servers before."""

    def __init__(self, dial_guest: Dial) -> None:
        self._dial = dial_guest
        self._connections: set[asyncio.Task[None]] = set()

    async def listen(
        self,
        guest_port: int,
        *,
        guest_address: str = "",
        host_address: str | Sequence[str],
        host_port: int,
    ) -> asyncio.Server:
        """A server on the host that leads to a port of the guest; the caller closes it.

        :param guest_address: one of the guest's own; its loopback unless told.
        :param host_port: 0 takes a free one.
        :raise OSError: as bind(2).
        """
        serve = self._server_of(guest_port, guest_address)
        return await asyncio.start_server(serve, host_address, host_port)

    async def serve(
        self, sock: StreamSocket, guest_port: int, *, guest_address: str
    ) -> asyncio.Server:
        """As :meth:`listen`, on a socket that is bound, which the server then owns."""
        return await asyncio.start_server(self._server_of(guest_port, guest_address), sock=sock)

    async def close(self) -> None:
        """End all connections. Idempotent."""
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        # The transports close their sockets in the loop's next round.
        await asyncio.sleep(0)

    def _server_of(
        self, guest_port: int, guest_address: str
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._carry(reader, writer, guest_port, guest_address)

        return serve

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        port: int,
        address: str,
    ) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= _CONNECTIONS_LIMIT:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            async with asyncio.timeout(_DIAL_TIMEOUT_S):
                inner_reader, inner_writer = await self._dial(port, address)
            try:
                await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))
                # Bytes may still be in the transports' buffers.
                inner_writer.close()
                writer.close()
                await asyncio.gather(inner_writer.wait_closed(), writer.wait_closed())
            finally:
                inner_writer.transport.abort()
        except asyncio.CancelledError:
            # Only `close` cancels; a server's own task has nobody to tell it to.
            pass
        except (InnError, OSError, EOFError):
            pass  # the peer sees the connection end, which is all there is to say
        finally:
            self._connections.discard(task)
            writer.transport.abort()


async def dial(
    vsock_path: Path, port: int, address: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream to a TCP port of the guest; the caller closes it.

    :raise InnError: the guest refused it or answered nonsense.
    :raise OSError: there is no guest.
    :raise EOFError: it closed the connection.
    """
    reader, writer = await open_port(vsock_path, FORWARD_PORT)
    try:
        writer.write(forward_request(port, address))
        length = answer_length(await reader.readexactly(4))
        check_answer(await reader.readexactly(length), port)
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer


async def open_port(
    vsock_path: Path, port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream to a vsock port of the guest; the caller closes it.

    :raise OSError: there is no guest.
    :raise EOFError: it refused the port.
    """
    reader, writer = await asyncio.open_unix_connection(vsock_path)
    try:
        writer.write(b"CONNECT %d\n" % port)
        # A refused port closes the connection without an answer.
        await reader.readuntil(b"\n")
    except BaseException:
        writer.transport.abort()
        raise
    return reader, writer


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All bytes, no faster than they are taken, then the end of file."""
    while data := await reader.read(_PIECE_BYTES):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
