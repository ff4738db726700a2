# SPDX-License-Identifier: Apache-2.0
"""The phases of work that takes long: told when they begin, with their durations at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Phases:
    """What is going on.

    :ivar report: gets a line for each phase, for what lasts.
    :ivar detail: gets what changes within a phase.
    :ivar durations_s: of the phases that have ended, in order.
    """

    report: Callable[[str], None]
    detail: Callable[[str], None] = lambda _text: None
    durations_s: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def phase(self, name: str, text: str) -> Iterator[None]:
        """Tell of a phase and measure it; one of the same name is added."""
        self.report(text)
        since = time.monotonic()
        try:
            yield
        finally:
            passed = time.monotonic() - since
            self.durations_s[name] = self.durations_s.get(name, 0.0) + passed
