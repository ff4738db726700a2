# SPDX-License-Identifier: Apache-2.0
"""What the native module is asked for beside the device: whether it loads, and the TSC."""

from __future__ import annotations

from pathlib import Path

from innkeeper.system.host import boot_identity
from innkeeper.system.remembered import recall, remember

# Long against the two calls that read the clock, short against a start.
_WINDOW_MS = 50


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
    known = recall(remembered, identity, int)
    if known is not None:
        return known
    from innkeeper import _core

    khz = _core.tsc_khz(_WINDOW_MS)
    remember(remembered, identity, khz)
    return khz
