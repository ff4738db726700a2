# SPDX-License-Identifier: Apache-2.0
"""A line for people from the keeper: to its log, or to the stderr of an attached run."""

from __future__ import annotations

import contextlib
import sys


def say(text: str) -> None:
    """A line for the keeper's log."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"inn: {text}\n")
        sys.stderr.flush()
