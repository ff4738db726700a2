# SPDX-License-Identifier: Apache-2.0
"""How far the move of a disk is, told at regular times by a thread of its own.

A thread, since the one that does the work may wait for a slow disk for seconds.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

EVERY_S = 0.5


@dataclass
class Moving:
    """A counter that only grows.

    :ivar what: what is going on, for people.
    :ivar total_bytes: what there is to do; 0 where nobody knows.
    :ivar done_bytes: of those.
    """

    what: str
    total_bytes: int = 0
    done_bytes: int = 0


Tell = Callable[[Moving], None]


@contextlib.contextmanager
def told(moving: Moving, tell: Tell | None, every_s: float = EVERY_S) -> Iterator[None]:
    """Within, `tell` is called at regular times, and once more at the end.

    :param tell: called on another thread; None is told nothing.
    """
    if tell is None:
        yield
        return
    over = threading.Event()

    def run() -> None:
        tell(moving)
        while not over.wait(every_s):
            tell(moving)

    thread = threading.Thread(target=run, name="inn-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    tell(moving)
