# SPDX-License-Identifier: Apache-2.0
"""Terminating signals as an exception, held back where an interruption would leak."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

TERMINATING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A terminating signal arrived. Not an `Exception`, so that nobody swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 + N, as a shell reports it."""
        return 128 + self.number


def _raise(number: int, _frame: object) -> None:
    raise Interrupted(number)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within, SIGINT, SIGTERM and SIGHUP raise :class:`Interrupted`.

    A signal that was ignored from the start (nohup, background jobs) stays so.
    """
    before = {number: signal.getsignal(number) for number in TERMINATING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _raise)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within, terminating signals wait; they are delivered at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
