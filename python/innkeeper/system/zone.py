# SPDX-License-Identifier: Apache-2.0
"""Time zones of this host: their names and files (tzfile(5), RFC 8536)."""

from __future__ import annotations

import contextlib
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

_ZONES = Path("/usr/share/zoneinfo")
# The same as the agent takes; the longest of tzdata has 32 bytes.
_NAME = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*")
_NAME_LIMIT = 64
# The largest of tzdata has 3.5 KiB; a message to the agent holds 64 KiB.
_TZIF_LIMIT_BYTES = 48 << 10
_MAGIC = b"TZif"


@dataclass(frozen=True)
class Zone:
    """A time zone.

    :ivar name: as "Europe/Berlin", or "" where it has none.
    :ivar tzif: its file.
    """

    name: str
    tzif: bytes


def _plain_utc() -> bytes:
    """The file of UTC, for hosts without tzdata: one type of local time, no transitions."""
    header = struct.pack(">4sc15x6I", _MAGIC, b"2", 0, 0, 0, 0, 1, 4)
    block = header + struct.pack(">iBB4s", 0, 0, 0, b"UTC\0")
    return block + block + b"\nUTC0\n"


UTC = Zone("Etc/UTC", _plain_utc())


def is_zone_name(name: str) -> bool:
    """Whether a zone may be called so; whether there is one is another question."""
    return len(name) <= _NAME_LIMIT and _NAME.fullmatch(name) is not None


def named_zone(name: str) -> Zone | None:
    """The zone with this name, where this host has its file."""
    if not is_zone_name(name):
        return None
    tzif = _read(_ZONES / name)
    return None if tzif is None else Zone(name, tzif)


def localtime_path() -> Path:
    """The file or link that says which zone is the host's."""
    return Path(os.environ.get("INN_LOCALTIME") or "/etc/localtime")


def environment_zone() -> Zone | None:
    """The zone of the variable TZ; None where it is not set or is no zone's name."""
    return named_zone(os.environ.get("TZ", "").removeprefix(":"))


def host_zone() -> Zone:
    """The zone of this process: TZ, else the host's, else UTC."""
    zone = environment_zone()
    if zone is not None:
        return zone
    path = localtime_path()
    tzif = _read(path)
    if tzif is None:
        return UTC
    name = ""
    with contextlib.suppress(OSError):
        _, separator, rest = str(path.resolve()).partition("/zoneinfo/")
        name = rest if separator and is_zone_name(rest) else ""
    return Zone(name, tzif)


def _read(path: Path) -> bytes | None:
    with contextlib.suppress(OSError), path.open("rb") as file:
        data = file.read(_TZIF_LIMIT_BYTES + 1)
        if data.startswith(_MAGIC) and len(data) <= _TZIF_LIMIT_BYTES:
            return data
    return None
