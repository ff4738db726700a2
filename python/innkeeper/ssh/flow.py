# SPDX-License-Identifier: Apache-2.0
"""Flow control between an SSH channel, which calls back, and a task, which waits."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

# The client's window for one channel.
WINDOW_BYTES = 512 << 10
# asyncssh grants a whole new window with each resume, whatever it still keeps
# of the one before. It keeps one window at most, as long as a whole window is
# taken between a resume and the next pause.
_RESUME_BYTES = 256 << 10
_PAUSE_BYTES = _RESUME_BYTES + WINDOW_BYTES


class Pausable(Protocol):
    """The half of a channel that an inbox holds back."""

    def pause_reading(self) -> None:
        """Deliver no more data for now."""

    def resume_reading(self) -> None:
        """Deliver data again."""


class Inbox:
    """What the client sent and the guest has not taken."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size_bytes = 0
        self._paused: Pausable | None = None
        self._ended = False
        self._news = asyncio.Event()

    def put(self, data: bytes, source: Pausable) -> None:
        """Keep it; the source is held back while there is much."""
        self._pieces.append(data)
        self._size_bytes += len(data)
        self._news.set()
        if self._size_bytes > _PAUSE_BYTES and self._paused is None:
            self._paused = source
            source.pause_reading()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._news.set()

    async def take(self) -> bytes:
        """The next bytes, b"" at the end."""
        while not self._pieces:
            if self._ended:
                return b""
            self._news.clear()
            await self._news.wait()
        data = self._pieces.popleft()
        self._size_bytes -= len(data)
        if self._paused is not None and self._size_bytes <= _RESUME_BYTES:
            source, self._paused = self._paused, None
            source.resume_reading()
        return data


class Gate:
    """Whether the client takes more."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    def shut(self) -> None:
        """It takes no more for now."""
        self._open.clear()

    def open(self) -> None:
        """It takes more."""
        self._open.set()

    async def passed(self) -> None:
        """Wait until it takes more."""
        await self._open.wait()


class Flow:
    """What a channel calls back, for a task that works between it and the guest.

    A subclass sets `_chan` when the channel opens, and `_task` when the task begins.
    """

    _chan: Pausable

    def __init__(self) -> None:
        self._inbox = Inbox()
        self._gate = Gate()
        self._task: asyncio.Task[None] | None = None

    def data_received(self, data: bytes, datatype: int | None) -> None:  # noqa: ARG002
        """Bytes for the guest."""
        self._inbox.put(data, self._chan)

    def eof_received(self) -> bool:
        """The client sends no more; the other direction stays open."""
        self._inbox.end()
        return True

    def pause_writing(self) -> None:
        """The client's window is full."""
        self._gate.shut()

    def resume_writing(self) -> None:
        """The client takes more."""
        self._gate.open()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """The client is gone, and so is the task."""
        self._gate.open()
        if self._task is not None:
            self._task.cancel()
