# SPDX-License-Identifier: Apache-2.0
"""Blocking calls under asyncio.

Each call runs in a thread of its own, not in the loop's pool of a few threads,
which some long commands would fill. A call that is cancelled is first told to
end, then waited for: afterwards nothing of it runs, here or in the guest.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any, Generic, TypeVar

from innkeeper.errors import TimedOut

T = TypeVar("T")

# A cancelled wait ends within this time.
_SLICE_S = 0.5


async def in_thread(
    work: Callable[[], T],
    *,
    give_up: Callable[[], None] = lambda: None,
    discard: Callable[[T], None] = lambda _result: None,
) -> T:
    """The result of `work`, done in a thread of its own.

    :param give_up: called when the task is cancelled; makes `work` end soon.
    :param discard: undoes a result that came although the task was cancelled.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def finish(results: list[T], error: BaseException | None) -> None:
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(results[0])

    def body() -> None:
        results: list[T] = []
        error: BaseException | None = None
        try:
            results.append(work())
        except BaseException as exc:  # noqa: BLE001 - goes to the task that waits
            error = exc
        # The loop is closed where the program ends without waiting.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, results, error)

    threading.Thread(target=body, name="innkeeper", daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        give_up()
        while not done.done():
            # A second cancellation must not leave the thread behind either.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({done})
        if done.exception() is None:
            result = done.result()
            await in_thread(lambda: discard(result))
        raise


async def patiently(wait: Callable[[float], T], timeout_s: float | None) -> T:
    """A wait that a cancellation can end: in slices.

    :raise TimedOut: the time is over.
    """
    deadline = time.monotonic() + (threading.TIMEOUT_MAX if timeout_s is None else timeout_s)
    while True:
        left_s = deadline - time.monotonic()
        slice_s = max(0.0, min(left_s, _SLICE_S))
        try:
            return await in_thread(partial(wait, slice_s))
        except TimedOut:
            if left_s <= _SLICE_S:
                raise


class Opening(Generic[T]):
    """What a call is about to make: to be awaited, or entered with `async with`, which ends it."""

    def __init__(
        self,
        make: Callable[[], Coroutine[Any, Any, T]],
        end: Callable[[T], Awaitable[None]],
    ) -> None:
        self._make = make
        self._end = end
        self._made: list[T] = []

    def __await__(self) -> Generator[Any, Any, T]:
        return self._make().__await__()

    async def __aenter__(self) -> T:
        self._made.append(await self)
        return self._made[-1]

    async def __aexit__(self, *_: object) -> None:
        await self._end(self._made.pop())
