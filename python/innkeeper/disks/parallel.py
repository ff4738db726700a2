# SPDX-License-Identifier: Apache-2.0
"""Work on all CPUs, its results in order, never more of it under way than memory should hold."""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

_T = TypeVar("_T")


def cpu_count() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


class InOrder(Generic[_T]):
    """Calls on threads; their results come in the order of the calls.

    :param done: gets each result, in the thread that calls :meth:`submit`.
    """

    def __init__(self, pool: ThreadPoolExecutor, ahead: int, done: Callable[[_T], None]) -> None:
        self._pool = pool
        self._ahead = ahead
        self._done = done
        self._waiting: collections.deque[Future[_T]] = collections.deque()

    def submit(self, work: Callable[..., _T], *arguments: object) -> None:
        """Have a call made; waits while too many are under way.

        :raise Exception: what an earlier call raised.
        """
        while len(self._waiting) >= self._ahead:
            self._take()
        self._waiting.append(self._pool.submit(work, *arguments))

    def put(self, result: _T) -> None:
        """A result that needed no work, in its place between the others.

        :raise Exception: what an earlier call raised.
        """
        while len(self._waiting) >= self._ahead:
            self._take()
        if not self._waiting:
            self._done(result)
            return
        future: Future[_T] = Future()
        future.set_result(result)
        self._waiting.append(future)

    def finish(self) -> None:
        """Wait for all.

        :raise Exception: what a call raised.
        """
        while self._waiting:
            self._take()

    def _take(self) -> None:
        self._done(self._waiting.popleft().result())


@contextlib.contextmanager
def workers(threads: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads; at the end, what has not begun is dropped."""
    pool = ThreadPoolExecutor(threads or cpu_count(), thread_name_prefix="inn-disk")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
