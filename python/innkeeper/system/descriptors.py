# SPDX-License-Identifier: Apache-2.0
"""The descriptors that a program is started with."""

from __future__ import annotations

import os


def occupy_standard_descriptors() -> None:
    """Put /dev/null where stdin, stdout or stderr is closed.

    Else the next socket or file that we open takes the number, and becomes the
    stdin of a session. For the first line of a program.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one


def lead(target: int, source: int) -> None:
    """Make descriptor `target` another name of `source`, as dup2(2).

    :raise OSError: `source` is not open.
    """
    os.dup2(source, target)


def silence(target: int) -> None:
    """Make descriptor `target` swallow what is written to it."""
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, target)
    os.close(null)


def silence_output() -> None:
    """Let go of the stdout and stderr that we were started with."""
    for fd in (1, 2):
        silence(fd)
