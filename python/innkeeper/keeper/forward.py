# SPDX-License-Identifier: Apache-2.0
"""Ports of the guest on the host's 127.0.0.1, for as long as a program of it listens there.

::

    host TCP <-> keeper <-> vsock <-> agent <-> guest TCP

The guest needs no network. Only ports from 1024 on are led to: a guest must
not take the place of the host's own services.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from innkeeper.agent.ports import (
    FORWARD_PORT,
    ListeningPort,
    answer_length,
    check_answer,
    forward_request,
)
from innkeeper.errors import InnError

HOST_ADDRESS = "127.0.0.1"
_LOWEST_PORT = 1024
_HIGHEST_PORT = 65535
# How far from the guest's own number a free port of the host is sought.
_TRIES = 100
_FORWARDS_LIMIT = 128
_CONNECTIONS_LIMIT = 256
_PIECE_BYTES = 64 * 1024
_DIAL_TIMEOUT_S = 20.0
# A guest that opens and closes ports all the time keeps the host this little busy.
_PACE_S = 0.2


def say(text: str) -> None:
    """A line for the keeper's log."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"inn: {text}\n")
        sys.stderr.flush()


@dataclass
class _Forward:
    """One port of the guest, and the port of the host that leads there."""

    address: str
    host_port: int
    server: asyncio.Server | None


def choose(ports: tuple[ListeningPort, ...]) -> dict[int, str]:
    """The ports to lead to, each with the address to use in the guest."""
    chosen: dict[int, str] = {}
    for port in sorted(ports, key=lambda item: (ip_address(item.address).version, item)):
        if port.protocol == "tcp" and port.port >= _LOWEST_PORT:
            chosen.setdefault(port.port, port.address)
    return dict(sorted(chosen.items())[:_FORWARDS_LIMIT])


class Forwarder:
    """Follows what is listened on in one guest. Close it."""

    def __init__(self, vsock_path: Path, *, tell: Callable[[str], None] = say) -> None:
        self._vsock_path = vsock_path
        self._tell = tell
        self._wanted: dict[int, str] = {}
        self._changed = asyncio.Event()
        self._forwards: dict[int, _Forward] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._following = asyncio.get_running_loop().create_task(self._follow())

    @property
    def ports(self) -> dict[int, int]:
        """Ports of the guest with those of the host that lead there."""
        return {port: item.host_port for port, item in self._forwards.items() if item.server}

    def update(self, ports: tuple[ListeningPort, ...]) -> None:
        """This is listened on now, and nothing else."""
        self._wanted = choose(ports)
        self._changed.set()

    async def close(self) -> None:
        """Close all listeners and connections. Idempotent."""
        tasks = {self._following, *self._connections}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for port in list(self._forwards):
            self._drop(port)
        # The transports close their sockets in the loop's next round.
        await asyncio.sleep(0)

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted = self._wanted
            for port, item in list(self._forwards.items()):
                if wanted.get(port) != item.address:
                    self._drop(port)
            for port, address in wanted.items():
                if port not in self._forwards:
                    self._forwards[port] = await self._listen(port, address)
            await asyncio.sleep(_PACE_S)

    async def _listen(self, port: int, address: str) -> _Forward:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(reader, writer, port, address)

        why = "none is free"
        for host_port in range(port, min(port + _TRIES, _HIGHEST_PORT) + 1):
            try:
                server = await asyncio.start_server(serve, HOST_ADDRESS, host_port)
            except OSError as exc:
                if exc.errno in (errno.EADDRINUSE, errno.EACCES):
                    continue
                why = exc.strerror or str(exc)
                break
            taken = "" if host_port == port else f" ({port} is taken)"
            self._tell(f"port {port} of the guest is {HOST_ADDRESS}:{host_port} here{taken}")
            return _Forward(address, host_port, server)
        self._tell(f"port {port} of the guest has no port here: {why}")
        return _Forward(address, 0, None)

    def _drop(self, port: int) -> None:
        item = self._forwards.pop(port)
        if item.server is not None:
            item.server.close()
            self._tell(f"port {port} of the guest is closed")

    async def _serve(
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
                inner_reader, inner_writer = await dial(self._vsock_path, port, address)
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
    reader, writer = await asyncio.open_unix_connection(vsock_path)
    try:
        writer.write(b"CONNECT %d\n" % FORWARD_PORT)
        # A refused port closes the connection without an answer.
        await reader.readuntil(b"\n")
        writer.write(forward_request(port, address))
        length = answer_length(await reader.readexactly(4))
        check_answer(await reader.readexactly(length), port)
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
