# SPDX-License-Identifier: Apache-2.0
"""The keeper's end of the channel to its starter: events out, "stop" or "detach" in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from innkeeper.keeper.guest import StopRequest
from innkeeper.keeper.messages import LINE_LIMIT_BYTES, Detach, Event, Stop
from innkeeper.keeper.plan import RunPlan
from innkeeper.system.sockets import StreamSocket


class Control:
    """JSON lines to and from the starter.

    :ivar stop: a future with the request, once the starter says stop or is
        gone without having detached.
    :ivar journal: called with every event, whether or not a starter hears it.
    :ivar on_detach: called when the starter leaves us.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.stop: asyncio.Future[StopRequest] = asyncio.get_running_loop().create_future()
        self._reader = reader
        self._writer = writer
        self._listening: asyncio.Task[None] | None = None
        self.journal: Callable[[Event], None] | None = None
        self.on_detach: Callable[[], None] = lambda: None

    @classmethod
    async def open(cls, sock: StreamSocket) -> Control:
        """Take over our end of the socket pair."""
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=LINE_LIMIT_BYTES)
        return cls(reader, writer)

    async def receive_plan(self) -> RunPlan | None:
        """The first line; from then on a stop is listened for. None: there will be no plan.

        :raise msgspec.MsgspecError: it is not a plan.
        """
        line = await self._reader.readline()
        if not line:
            return None
        plan = msgspec.json.decode(line, type=RunPlan)
        self._listening = asyncio.create_task(self._listen(plan.end_limit_s))
        return plan

    def ask_stop(self, request: StopRequest) -> None:
        """Have the guest stopped; the first request counts."""
        if not self.stop.done():
            self.stop.set_result(request)

    def send(self, event: Event) -> None:
        """Say something; a starter that is gone does not hear it."""
        if self.journal is not None:
            self.journal(event)
        if not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(event) + b"\n")

    async def close(self) -> None:
        """Send what is queued and close."""
        if self._listening is not None:
            self._listening.cancel()
        with contextlib.suppress(OSError):
            await self._writer.drain()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _listen(self, end_limit_s: float) -> None:
        request = StopRequest(orderly=end_limit_s > 0, timeout_s=end_limit_s)
        with contextlib.suppress(OSError, ValueError):
            while line := await self._reader.readline():
                said = msgspec.json.decode(line, type=Stop | Detach)
                if isinstance(said, Detach):
                    self.on_detach()
                    self._writer.close()
                    return
                if said.timeout_s > 0:
                    request = StopRequest(timeout_s=said.timeout_s)
                break
        # A stop, the end of the stream, or something that is no message of ours.
        self.ask_stop(request)
