# SPDX-License-Identifier: Apache-2.0
"""The keeper's own socket: operations on the running guest, one connection each.

The runtime folder is its owner's (0700), so whoever can connect is allowed to.
What they send is bounded and typed all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from innkeeper.errors import InnError, ProtocolError
from innkeeper.keeper.audience import Audience
from innkeeper.keeper.messages import (
    Answer,
    Attach,
    Done,
    HoldStill,
    Operation,
    Refused,
    StateChanged,
    Watch,
)
from innkeeper.system.sockets import StreamSocket

_LINE_LIMIT_BYTES = 64 * 1024
_CONNECTIONS_LIMIT = 64
# A watcher that does not read misses what is older than this.
_WATCH_QUEUE = 256


class Door:
    """Serves operations on a bound and listening socket, which it then owns.

    :param carry_out: does an operation and returns when it is done, perhaps with an
        answer of its own; raises `InnError` where it cannot be.
    :param let_go: called when the connection ends that asked to hold the guest still.
    :param present: the state to tell a new watcher.
    :param audience: where those who attach to the console go; ended by :meth:`close`.
    """

    def __init__(
        self,
        sock: StreamSocket,
        *,
        carry_out: Callable[[Operation], Awaitable[Answer | None]],
        let_go: Callable[[], Awaitable[None]],
        present: Callable[[], StateChanged],
        audience: Audience,
    ) -> None:
        self._sock = sock
        self._carry_out = carry_out
        self._let_go = let_go
        self._present = present
        self._audience = audience
        self._server: asyncio.AbstractServer | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._watchers: set[asyncio.Queue[StateChanged]] = set()

    async def open(self) -> None:
        """Begin to accept."""
        self._server = await asyncio.start_unix_server(
            self._accept, sock=self._sock, limit=_LINE_LIMIT_BYTES
        )

    def tell(self, event: StateChanged) -> None:
        """Tell all watchers of a new state."""
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    async def close(self, *, grace_s: float = 1.0) -> None:
        """Stop accepting; answers on their way get a moment."""
        if self._server is not None:
            self._server.close()
        # Watchers end with the server; whoever asked for the stop hears of it.
        for queue in self._watchers:
            queue.put_nowait(self._present()) if not queue.full() else None
        self._audience.end()
        if self._connections:
            await asyncio.wait(self._connections, timeout=grace_s)
        for task in self._connections:
            task.cancel()
        self._sock.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= _CONNECTIONS_LIMIT:
            writer.close()
            return
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await reader.readline()
            operation = msgspec.json.decode(line, type=Operation)
            if isinstance(operation, Watch):
                await self._watch(reader, writer)
                return
            if isinstance(operation, Attach):
                await _answer(writer, Done())
                await self._audience.attend(reader, writer, read_only=operation.read_only)
                return
            answer = await self._carry_out(operation)
        except InnError as error:
            await _answer(writer, Refused(error.as_dict()))
        except ValueError as exc:  # also msgspec's, and a line that is too long
            await _answer(writer, Refused(ProtocolError(f"no operation: {exc}").as_dict()))
        else:
            await _answer(writer, answer or Done())
            if isinstance(operation, HoldStill):
                try:
                    await reader.read(1)
                finally:
                    await self._let_go()

    async def _watch(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[StateChanged] = asyncio.Queue(_WATCH_QUEUE)
        queue.put_nowait(self._present())
        self._watchers.add(queue)
        gone = asyncio.ensure_future(reader.read(1))
        try:
            while True:
                following = asyncio.ensure_future(queue.get())
                await asyncio.wait({gone, following}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    return
                event = following.result()
                await _answer(writer, event)
                if event.state in ("stopped", "failed"):
                    return
        finally:
            gone.cancel()
            self._watchers.discard(queue)


async def _answer(writer: asyncio.StreamWriter, answer: Answer) -> None:
    writer.write(msgspec.json.encode(answer) + b"\n")
    await writer.drain()
