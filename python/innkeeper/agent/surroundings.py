# SPDX-License-Identifier: Apache-2.0
"""What surrounds a session: time limits, signals, the keeper's word, our terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from innkeeper.agent.keys import KeyFilter
from innkeeper.agent.setup import WindowSize
from innkeeper.agent.vsh import Failed, Started
from innkeeper.errors import InnError, TimedOut
from innkeeper.system import signals, terminal

FORWARDED = (
    signals.INTERRUPT,
    signals.TERMINATE,
    signals.HANGUP,
    signals.QUIT,
    signals.USER_1,
    signals.USER_2,
)

OnWatch = Callable[[], InnError | None]


@dataclass(frozen=True)
class TimeLimit:
    """When the command must have ended (`time.monotonic`), and the limit as it was given."""

    ends: float
    seconds: float | None = None

    def error(self) -> TimedOut:
        """What to raise when it passed."""
        within = "in time" if self.seconds is None else f"within {self.seconds:g} s"
        return TimedOut(f"the command did not end {within}", stage="session")


@dataclass(frozen=True)
class Watch:
    """Something beside the guest that can end a session: the keeper's control socket.

    `on_ready` is called when `fd` is readable; it reads, and returns the error
    to end the session with, or None to go on.
    """

    fd: int
    on_ready: OnWatch


@dataclass
class Surroundings:
    """What may end or change a session from outside."""

    watch: Watch | None = None
    limit: TimeLimit | None = None
    signals: signals.SignalWatch = field(default_factory=lambda: signals.SignalWatch(()))
    has_terminal: bool = False
    # The size of the terminal's window.
    window: Callable[[], WindowSize] = lambda: WindowSize(0, 0)
    # Called once the command runs.
    on_started: Callable[[Started], None] = lambda _started: None
    # Keys that leave a kept session.
    keys: KeyFilter | None = None
    # Words for what the agent refused or gave up; by default those for a command.
    failure: Callable[[Failed], InnError] | None = None


def window_of(fd: int) -> WindowSize:
    """The size of the terminal's window."""
    return WindowSize(*terminal.window_size(fd))
