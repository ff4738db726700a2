# SPDX-License-Identifier: Apache-2.0
"""Everybody who is attached to a guest's console: all see what it says, each may type.

The audience outlives the guest, so that whoever watches sees a restart too.
A reader that is too slow loses bytes and is told how many; the guest never
waits for it. What is typed waits until the guest takes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import Protocol

# What a newcomer is shown of the past.
REPLAY_BYTES = 16 * 1024
# What waits for one slow reader; more than that is lost.
PENDING_BYTES = 256 * 1024
_TYPED_BYTES = 4096

# What asks a terminal for an answer (ENQ, DECID, and the CSI that end in c or
# n): BusyBox' shell does it at each prompt. Nobody waits for the answers to
# what is past; they would arrive as if they had been typed.
_REQUEST = re.compile(rb"\x05|\x1bZ|\x1b\[[?>=]?[0-9;]*[cn]")


class Typist(Protocol):
    """A console that takes what is typed."""

    async def type(self, data: bytes) -> None:
        """Hand bytes to the guest, and wait until it has room for them."""


class Attached:
    """One reader: what waits for it, bounded."""

    def __init__(self, first: bytes) -> None:
        self._pending = bytearray(first)
        self._lost = 0
        self._ended = False
        self._news = asyncio.Event()
        self._news.set()

    def put(self, data: bytes) -> None:
        """Take bytes, or count them as lost."""
        # Once something is lost, all is until the note about it has its place.
        if self._lost or len(self._pending) + len(data) > PENDING_BYTES:
            self._lost += len(data)
        else:
            self._pending += data
        self._news.set()

    def end(self) -> None:
        """Nothing will follow."""
        self._ended = True
        self._news.set()

    async def take(self) -> bytes:
        """What came since the last call, waiting for it; b"" at the end."""
        await self._news.wait()
        data, self._pending = self._pending, bytearray()
        if self._lost:
            data += b"\r\n[inn: %d bytes lost]\r\n" % self._lost
            self._lost = 0
        if not self._ended:
            self._news.clear()
        return bytes(data)


class Audience:
    """The attached of one keeper."""

    def __init__(self) -> None:
        self._tail = bytearray()
        self._attached: set[Attached] = set()
        self._typist: Typist | None = None
        self._ended = False

    def hear(self, data: bytes) -> None:
        """Bytes of the guest's console, for everybody."""
        self._tail += data
        del self._tail[:-REPLAY_BYTES]
        for one in self._attached:
            one.put(data)

    def tell(self, text: str) -> None:
        """A line of ours, between those of the guest."""
        self.hear(b"\r\n[inn: %s]\r\n" % text.encode())

    def seat(self, typist: Typist | None) -> None:
        """From now on, what is typed goes to this console; None drops it."""
        self._typist = typist

    def end(self) -> None:
        """There will be no guest any more. Idempotent."""
        self._typist = None
        self._ended = True
        for one in self._attached:
            one.end()

    def replay(self) -> bytes:
        """The past as a newcomer is shown it: whole lines, without requests."""
        past = bytes(self._tail)
        if len(past) == REPLAY_BYTES:
            past = past[past.find(b"\n") + 1 :]
        return _REQUEST.sub(b"", past)

    async def attend(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, read_only: bool
    ) -> None:
        """Serve one connection until it closes, or the audience ends."""
        one = Attached(self.replay())
        if self._ended:
            one.end()
        self._attached.add(one)
        typing = asyncio.ensure_future(self._listen(reader, read_only=read_only))
        showing = asyncio.ensure_future(_show(one, writer))
        try:
            await asyncio.wait({showing, typing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._attached.discard(one)
            for task in (typing, showing):
                task.cancel()
            await asyncio.gather(typing, showing, return_exceptions=True)

    async def _listen(self, reader: asyncio.StreamReader, *, read_only: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_TYPED_BYTES):
                if not read_only and self._typist is not None:
                    await self._typist.type(data)


async def _show(one: Attached, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await one.take():
            writer.write(data)
            await writer.drain()
