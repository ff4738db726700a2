# SPDX-License-Identifier: Apache-2.0
"""Answers that cost time, kept in a file as long as what they depend on is the same.

The file holds the identity of what was asked (a program's path, size and time; a
boot of the host) and the answer. One that is damaged or of another version is no answer.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TypeVar

import msgspec

from innkeeper.system.files import write_atomic

_T = TypeVar("_T")


def program_identity(path: str) -> str:
    """What changes when a program is replaced: its path, size and time.

    :raise OSError: it is not there.
    """
    stat = Path(path).stat()
    return f"{path}:{stat.st_size}:{stat.st_mtime_ns}"


def recall(path: Path, identity: str, kind: type[_T]) -> _T | None:
    """The answer that was remembered for this identity, if there is one."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        known = msgspec.json.decode(path.read_bytes(), type=tuple[str, kind])  # type: ignore[valid-type]
        if known[0] == identity:
            return known[1]
    return None


def remember(path: Path, identity: str, answer: object) -> None:
    """Keep an answer for :func:`recall`.

    :raise HostError: the file cannot be written.
    """
    write_atomic(path, msgspec.json.encode((identity, answer)))
