# SPDX-License-Identifier: Apache-2.0
"""From a caller's keywords to a machine's settings; the end of its console."""

from __future__ import annotations

import contextlib
from collections import deque
from pathlib import Path
from typing import Any

from innkeeper.errors import UsageError
from innkeeper.model.machine import Machine as Settings
from innkeeper.model.toml import machine_from_table

_CONSOLE_BYTES = 256 << 10


def build_settings(name: str, *, source: str, **values: Any) -> Settings:
    """The settings as a machine file would give them.

    :raise UsageError: one makes no sense.
    """
    values["memory"] = str(values.get("memory", "512M"))
    for key in ("ports", "append"):
        if isinstance(values.get(key), str):
            raise UsageError(f"{key}={values[key]!r}", stage="machine", fix="give a list of texts")
        values[key] = list(values.get(key, ()))
    for key in ("kernel", "initrd"):
        if values.get(key) is not None:
            values[key] = str(values[key])
    return machine_from_table(values, source=source, name=name)


def read_tail(path: Path, lines: int) -> tuple[str, ...]:
    """The last lines of a console, control characters made harmless; () where there is none."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _CONSOLE_BYTES))
        text = file.read(_CONSOLE_BYTES).decode("utf-8", "replace")
        shown = ("".join(c if c.isprintable() else " " for c in x) for x in text.splitlines())
        return tuple(deque(shown, maxlen=lines))
    return ()
