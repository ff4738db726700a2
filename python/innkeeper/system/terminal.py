# SPDX-License-Identifier: Apache-2.0
"""Terminals: raw mode that is always undone, and window sizes."""

from __future__ import annotations

import contextlib
import os
import termios
import tty
from collections.abc import Iterator

# Where the terminal does not know its size.
DEFAULT_ROWS = 24
DEFAULT_COLS = 80


def is_terminal(fd: int) -> bool:
    """True when the descriptor is open and a terminal."""
    return fd >= 0 and os.isatty(fd)


def window_size(fd: int) -> tuple[int, int]:
    """Rows and columns of a terminal; 24 and 80 where they are unknown."""
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return DEFAULT_ROWS, DEFAULT_COLS
    return size.lines or DEFAULT_ROWS, size.columns or DEFAULT_COLS


def terminal_type() -> str:
    """The TERM that a program at our terminal should see."""
    return os.environ.get("TERM") or "linux"


@contextlib.contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """Every key becomes a byte and no output is changed, until the block ends.

    TCSADRAIN keeps what was typed ahead, where tty.setraw's default drops it.
    A terminal that went away meanwhile needs no restoring.
    """
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
