# SPDX-License-Identifier: Apache-2.0
"""The restart policy: whether and when a guest that ended unasked is started again. Pure."""

from __future__ import annotations

from innkeeper.model.machine import RestartPolicy

_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 60.0
# A guest that lived this long starts its count of failures anew.
STABLE_S = 60.0


def restart_delay_s(policy: RestartPolicy, *, failed: bool, ends: int) -> float | None:
    """Seconds until the next start, or None for no start.

    :param failed: it ended by a failure; False when it powered off by itself.
    :param ends: how often it has ended in a row, this time included.
    """
    if policy == "never" or (policy == "on-failure" and not failed):
        return None
    delay_s: float = _FIRST_DELAY_S * 2 ** min(max(ends, 1) - 1, 10)
    return min(delay_s, _LONGEST_DELAY_S)
