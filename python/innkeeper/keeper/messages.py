# SPDX-License-Identifier: Apache-2.0
"""What the keeper and its starter say to each other: JSON lines on a socket pair.

::

    starter ──RunPlan──────────────────────────> keeper
    starter <─StageDone*─Ready│Failed───────────
    starter ──Stop──> (or closes)
    starter <─Ended─────────────────────────────
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Reason = Literal["stopped", "powered-off", "rebooted", "failed"]


class StageDone(msgspec.Struct, frozen=True, tag_field="event", tag="stage"):
    """A stage of the start is over."""

    name: str
    seconds: float


class Ready(msgspec.Struct, frozen=True, tag_field="event", tag="ready"):
    """The guest fulfils what was waited for.

    :ivar guest: measurements of the guest's own side, in seconds.
    :ivar warnings: what the agent could not do so far.
    """

    name: str
    guest: dict[str, float]
    warnings: tuple[str, ...] = ()


class Failed(msgspec.Struct, frozen=True, tag_field="event", tag="failed"):
    """The guest is lost, before or after it was ready. `error` is `InnError.as_dict()`."""

    error: dict[str, Any]


class Ended(msgspec.Struct, frozen=True, tag_field="event", tag="ended"):
    """Everything is torn down; the last message.

    :ivar reason: "stopped" when asked to, "powered-off" or "rebooted" when the
        guest did, "failed" after a `Failed`.
    """

    reason: Reason
    keeper_peak_kib: int = 0


class Stop(msgspec.Struct, frozen=True, tag_field="op", tag="stop"):
    """End the guest."""


Event = StageDone | Ready | Failed | Ended
"""What a keeper says."""

# The longest line either side accepts; a plan or an error with evidence is far smaller.
LINE_LIMIT_BYTES = 1024 * 1024
