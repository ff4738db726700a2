# SPDX-License-Identifier: Apache-2.0
"""Text from a guest, made safe to print on a terminal and to keep."""

from __future__ import annotations

import re

_TEXT_LIMIT = 1000
# C0 and C1 controls and DEL, except tab.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ESCAPE_SEQUENCE = re.compile(rb"\x1b(?:\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>78c])")


def clean_text(text: str, limit: int = _TEXT_LIMIT) -> str:
    """Bounded, in one line, without control characters."""
    cut = text[: limit + 1]
    shown = "".join(char if char.isprintable() else "\ufffd" for char in cut[:limit])
    return shown + "…" if len(cut) > limit else shown


def escape_line(line: str) -> str:
    r"""A line with control characters made visible, as `\x1b`."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", line)


def plain_line(line: bytes) -> str:
    """A line as text without colours and the like, other control characters visible."""
    return escape_line(_ESCAPE_SEQUENCE.sub(b"", line).decode("utf-8", "replace").strip("\r"))
