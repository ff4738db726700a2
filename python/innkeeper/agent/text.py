# SPDX-License-Identifier: Apache-2.0
"""Text from a guest, made safe to print on a terminal and to keep."""

from __future__ import annotations

_TEXT_LIMIT = 1000


def clean_text(text: str, limit: int = _TEXT_LIMIT) -> str:
    """Bounded, in one line, without control characters."""
    cut = text[: limit + 1]
    shown = "".join(char if char.isprintable() else "\ufffd" for char in cut[:limit])
    return shown + "…" if len(cut) > limit else shown
