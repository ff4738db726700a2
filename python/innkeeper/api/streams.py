# SPDX-License-Identifier: Apache-2.0
"""What a guest goes on telling, under asyncio: its states, the lines of its logs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from typing import Any

from innkeeper.api.threads import in_thread
from innkeeper.errors import TimedOut
from innkeeper.keeper.client import StateWatch
from innkeeper.keeper.logs import Line, Logs
from innkeeper.keeper.messages import StateChanged

# Lines that a thread brings at once.
_BATCH = 1000


async def states(
    connect: Callable[[], StateWatch], timeout_s: float | None
) -> AsyncGenerator[StateChanged, None]:
    """The present state and every later one, until the keeper ends.

    :raise TimedOut: the time is over.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    watch = await in_thread(connect, discard=StateWatch.close)
    loop = asyncio.get_running_loop()
    news = asyncio.Event()
    loop.add_reader(watch.fileno(), news.set)
    try:
        while True:
            news.clear()
            changes, ended = watch.take()
            for change in changes:
                yield change
            if ended:
                return
            left_s = None if deadline is None else deadline - time.monotonic()
            try:
                await asyncio.wait_for(news.wait(), left_s)
            except TimeoutError as exc:
                raise TimedOut(f"the guest did not end within {timeout_s:g} s") from exc
    finally:
        loop.remove_reader(watch.fileno())
        watch.close()


class AsyncLines:
    """Lines of a guest's logs: `await` them for those so far, or go through them."""

    def __init__(self, open_logs: Callable[[], Logs], *, follow: bool) -> None:
        self._open = open_logs
        self._follow = follow

    def __await__(self) -> Generator[Any, Any, tuple[Line, ...]]:
        return self._all().__await__()

    async def __aiter__(self) -> AsyncGenerator[Line, None]:
        logs = self._open()
        try:
            lines = logs.follow() if self._follow else logs.present()
            ended = False
            while not ended:
                batch, ended = await in_thread(lambda: _take(lines))
                for line in batch:
                    yield line
        finally:
            logs.close()

    async def _all(self) -> tuple[Line, ...]:
        return tuple([line async for line in self])


def _take(lines: Iterator[Line | None]) -> tuple[list[Line], bool]:
    """Lines up to the next wait, and whether they were the last. It waits once at most."""
    batch: list[Line] = []
    for line in lines:
        if line is None:
            return batch, False
        batch.append(line)
        if len(batch) == _BATCH:
            return batch, False
    return batch, True
