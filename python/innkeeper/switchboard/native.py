# SPDX-License-Identifier: Apache-2.0
"""Whether the native module, which holds the vsock device, can be used."""

from __future__ import annotations


def find_native_fault() -> str | None:
    """None when `innkeeper._core` loads, else the reason."""
    try:
        from innkeeper import _core  # noqa: F401 - loading it is the check
    except ImportError as exc:
        return str(exc)
    return None
