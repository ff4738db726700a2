# SPDX-License-Identifier: Apache-2.0
"""Signals as readable bytes, so that one poll loop sees them in order."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Self

HANGUP = int(signal.SIGHUP)
INTERRUPT = int(signal.SIGINT)
QUIT = int(signal.SIGQUIT)
TERMINATE = int(signal.SIGTERM)
USER_1 = int(signal.SIGUSR1)
USER_2 = int(signal.SIGUSR2)
BROKEN_PIPE = int(signal.SIGPIPE)
WINDOW_CHANGE = int(signal.SIGWINCH)


def leave_to_parent() -> None:
    """Ignore the signals of a terminal, for a program that ends when its parent does."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _noted(_number: int, _frame: FrameType | None) -> None:
    """A handler that leaves all to the wake-up descriptor."""


class SignalWatch:
    """Takes over some signals for the time of a `with` block.

    A signal that the parent set to be ignored (nohup, background jobs) stays
    ignored. Outside of the main thread, where Python cannot handle signals,
    this watches none.

    :ivar fd: readable when a signal came; -1 when none are watched.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = tuple(numbers)
        self._before: dict[int, object] = {}
        self._old_wakeup = -1
        self._write_end = -1
        self.fd = -1

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self.fd, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wakeup = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        for number in self._numbers:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, _noted)
        return self

    def take(self) -> list[int]:
        """The signals that came since the last call, in order."""
        try:
            data = os.read(self.fd, 512)
        except BlockingIOError:
            return []
        return [number for number in data if number in self._before]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.fd < 0:
            return
        for number, before in self._before.items():
            signal.signal(number, before)  # type: ignore[arg-type]  # what getsignal gave
        signal.set_wakeup_fd(self._old_wakeup)
        os.close(self.fd)
        os.close(self._write_end)
        self.fd = self._write_end = -1
