# SPDX-License-Identifier: Apache-2.0
"""Rings under asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Self

from innkeeper.rings import ANY, Message, Rings


class AsyncRings:
    """What waits in :class:`innkeeper.rings.Rings`, for asyncio; that has the rest.

    ::

        async with AsyncRings(vm.sync.rings()) as rings:
            rings.sync.register(80, guest)
            async for message in rings.messages(80, guest):
                await rings.send(80, message.sender, b"thank you")

    Any number of tasks may wait at a time. A call itself takes a round trip to the
    guest's keeper, as a file's read takes one to the disk.

    :ivar sync: the connection, which is closed with this.
    """

    def __init__(self, rings: Rings) -> None:
        """Of a loop that runs."""
        self.sync = rings
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._gone: set[tuple[int, int]] = set()
        self._open = True
        self._loop.add_reader(rings.fileno(), self._look)

    async def send(self, source_port: int, to: tuple[int, int], data: bytes) -> int:
        """Send a message, and wait where there is no room.

        :raise OSError: as :meth:`Rings.sendv`.
        """
        while True:
            changed = self._changed
            try:
                return self.sync.sendv((ANY, source_port), to, [data])
            except BlockingIOError:
                await changed.wait()
            self._check_open()

    async def messages(self, port: int, partner: int = ANY) -> AsyncGenerator[Message, None]:
        """The messages of an own ring as they come; ends with the ring."""
        self._gone.discard((port, partner))
        while True:
            changed = self._changed
            try:
                batch = self.sync.receive(port, partner)
            except FileNotFoundError:
                self._look()
                if (port, partner) not in self._gone:
                    raise
                return
            for message in batch:
                yield message
            if not batch:
                await changed.wait()
            self._check_open()

    async def close(self) -> None:
        """As :meth:`Rings.close`; tasks that wait get a `ConnectionError`. Idempotent."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self.sync.fileno())
            self.sync.close()
            self._changed.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _look(self) -> None:
        """Take the events and have everybody look."""
        try:
            for event in self.sync.events():
                if event.what == "closed" and event.owner == self.sync.domain:
                    self._gone.add((event.port, event.partner))
        except OSError:
            # The board is gone: each one's next call says so.
            self._loop.remove_reader(self.sync.fileno())
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _check_open(self) -> None:
        if not self._open:
            raise ConnectionAbortedError("the rings were closed")
