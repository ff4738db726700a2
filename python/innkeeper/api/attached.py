# SPDX-License-Identifier: Apache-2.0
"""An ephemeral guest that lives as long as the program wants it."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref

import msgspec

from innkeeper.api.session import Remote
from innkeeper.errors import GuestError, InnError, TimedOut
from innkeeper.keeper.messages import Ended, Ready
from innkeeper.keeper.prepare import RunRequest, prepare_run
from innkeeper.keeper.starter import KeeperHandle, started
from innkeeper.model.record import State
from innkeeper.registry.layout import Layout
from innkeeper.system.pump import Poller

# Those that the program has forgotten are ended in order when it ends.
_forgotten: weakref.WeakSet[Attached] = weakref.WeakSet()


class Attached:
    """A running keeper and who may use it: one thread at a time.

    :ivar timings: the stages of the start, and the guest's own side of it, in seconds.
    :ivar live: the guest is ours still: neither ended nor detached.
    """

    def __init__(self, request: RunRequest, layout: Layout, *, remote: Remote | None) -> None:
        self.timings: dict[str, float] = {}
        self.live = False
        self._lock = threading.Lock()
        self._owner = os.getpid()
        begun = time.monotonic()
        plan = prepare_run(request, layout, report=lambda _line: None)
        if request.timeout_s is not None:
            plan = msgspec.structs.replace(plan, ends_at=begun + request.timeout_s)
        self.timings["prepare"] = time.monotonic() - begun
        with contextlib.ExitStack() as stack:
            self._keeper = stack.enter_context(started(plan))
            ready = _follow_start(self._keeper, remote)
            self.timings["start"] = time.monotonic() - begun
            self.timings |= {f"guest {name}": value for name, value in ready.guest.items()}
            self._stack = stack.pop_all()
        self.live = True
        _forgotten.add(self)

    @property
    def state(self) -> State:
        """How it ended; "running" while nothing is known of an end."""
        if self._keeper.failure is not None:
            return "failed"
        return "stopped" if not self.live or self._keeper.ended is not None else "running"

    @property
    def reason(self) -> str:
        """Why it is in this state, for people."""
        failure = self._keeper.failure
        return failure.brief if failure is not None else ""

    def wait_end(self, timeout_s: float | None) -> bool:
        """Wait until the guest has ended; False when the time is over."""
        with self._lock:
            return not self.live or self._keeper.wait_end(
                threading.TIMEOUT_MAX if timeout_s is None else timeout_s
            )

    def explain(self, lost: InnError, timeout_s: float) -> InnError:
        """The keeper's error for a guest that was lost, or `lost` where it has none."""
        self.wait_end(timeout_s)
        return self._keeper.failure or lost

    def detach(self) -> None:
        """Leave the guest to its keeper.

        :raise GuestError: it has ended.
        """
        with self._lock:
            if not self.live or self._keeper.ended is not None:
                raise GuestError("the guest has ended; there is nothing to detach", stage="keeper")
            self._keeper.detach()
            self._close()

    def end(self) -> None:
        """Tear the guest down. Idempotent; in a forked child, nothing: it is the parent's."""
        if os.getpid() != self._owner:
            self._let_go()
            return
        with self._lock:
            self._close()

    def _let_go(self) -> None:
        """Close a forked child's copies without a word to the keeper. Idempotent."""
        self.live = False
        if not self._keeper.detached:
            self._keeper.forget()

    def _close(self) -> None:
        self.live = False
        self._stack.close()


@atexit.register
def _end_forgotten() -> None:
    """End the guests that nobody ended, while everything that this needs is still there."""
    for attached in list(_forgotten):
        with contextlib.suppress(InnError):
            attached.end()


def _follow_start(keeper: KeeperHandle, remote: Remote | None) -> Ready:
    """Wait until the guest is ready, or another thread gives it up.

    :raise InnError: the start failed, with the keeper's reason.
    """
    poller = Poller()
    watched = [keeper.fileno(), *([remote.fd] if remote is not None else ())]
    while True:
        try:
            event = keeper.next_event(time.monotonic())
        except TimedOut:
            if remote is not None and remote.hung_up:
                raise GuestError("the start was given up", stage="start") from None
            poller.wait(read=watched, write=(), timeout_s=None)
            continue
        if event is None or keeper.failure is not None or isinstance(event, Ended):
            raise keeper.lost()
        if isinstance(event, Ready):
            return event
