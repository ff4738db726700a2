# SPDX-License-Identifier: Apache-2.0
"""What the native module is asked for beside the device: whether it loads, and the TSC."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from innkeeper.system.files import write_atomic
from innkeeper.system.host import boot_identity

# Long against the two calls that read the clock, short against a start.
_WINDOW_MS = 50


class _Remembered(msgspec.Struct, frozen=True):
    identity: str
    khz: int


def find_native_fault() -> str | None:
    """None when `innkeeper._core` loads, else the reason."""
    try:
        from innkeeper import _core  # noqa: F401 - loading it is the check
    except ImportError as exc:
        return str(exc)
    return None


def tsc_khz(cache_dir: Path) -> int:
    """Frequency of the host's time-stamp counter in kHz, 0 where it is unknown.

    Counted once per boot of the host: what /proc/cpuinfo shows is the current
    frequency of a core, which is another thing on most processors.
    """
    remembered = cache_dir / "tsc.json"
    identity = boot_identity()
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        known = msgspec.json.decode(remembered.read_bytes(), type=_Remembered)
        if known.identity == identity:
            return known.khz
    from innkeeper import _core

    khz = _core.tsc_khz(_WINDOW_MS)
    write_atomic(remembered, msgspec.json.encode(_Remembered(identity, khz)))
    return khz
