# SPDX-License-Identifier: Apache-2.0
"""Calls in threads of their own: cancelled, they are told to end and waited for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from innkeeper.api.threads import in_thread


def test_results_and_errors_come_back() -> None:
    async def main() -> None:
        assert await in_thread(lambda: 5) == 5
        with pytest.raises(ZeroDivisionError):
            await in_thread(lambda: 1 // 0)

    asyncio.run(main())


def test_more_calls_run_at_once_than_a_pool_has_threads() -> None:
    gate = threading.Barrier(41, timeout=10)

    async def main() -> None:
        calls = [asyncio.create_task(in_thread(gate.wait)) for _ in range(40)]
        await in_thread(gate.wait)
        await asyncio.gather(*calls)

    asyncio.run(main())


def test_a_cancelled_call_is_given_up_and_its_result_undone(
    eventually: Callable[[Callable[[], bool]], None],
) -> None:
    told = threading.Event()
    begun = threading.Event()
    undone: list[str] = []

    def work() -> str:
        begun.set()
        assert told.wait(10)
        return "made"

    async def main() -> None:
        task = asyncio.create_task(in_thread(work, give_up=told.set, discard=undone.append))
        await in_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert undone == ["made"]
    # It has said its last word and ends just now.
    eventually(lambda: not any(t.name == "innkeeper" for t in threading.enumerate()))


def test_a_second_cancellation_leaves_no_thread_behind() -> None:
    told, begun, go = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go.wait(10)

    async def main() -> None:
        task = asyncio.create_task(in_thread(work, give_up=told.set))
        await in_thread(begun.wait)
        task.cancel()
        await in_thread(told.wait)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
