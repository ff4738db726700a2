# SPDX-License-Identifier: Apache-2.0
"""innkeeper: Linux guests from one command, with declared doors to their host.

The names below come from `innkeeper.api` and `innkeeper.errors` at their first
use: `inn --version` imports this module too, and has no time for more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from innkeeper._version import __version__

if TYPE_CHECKING:
    from innkeeper.api.aio import AsyncGuestProcess, AsyncMachine
    from innkeeper.api.aio_rings import AsyncRings
    from innkeeper.api.completed import CompletedExec, ExecError
    from innkeeper.api.disk import Disk
    from innkeeper.api.forward import Forward
    from innkeeper.api.machine import Machine
    from innkeeper.api.process import GuestProcess
    from innkeeper.api.rings import HostRings
    from innkeeper.errors import InnError

__all__ = [
    "AsyncGuestProcess",
    "AsyncMachine",
    "AsyncRings",
    "CompletedExec",
    "Disk",
    "ExecError",
    "Forward",
    "GuestProcess",
    "HostRings",
    "InnError",
    "Machine",
    "__version__",
]

_SOURCES = {
    "AsyncGuestProcess": "innkeeper.api.aio",
    "AsyncMachine": "innkeeper.api.aio",
    "AsyncRings": "innkeeper.api.aio_rings",
    "CompletedExec": "innkeeper.api.completed",
    "Disk": "innkeeper.api.disk",
    "ExecError": "innkeeper.api.completed",
    "Forward": "innkeeper.api.forward",
    "GuestProcess": "innkeeper.api.process",
    "HostRings": "innkeeper.api.rings",
    "InnError": "innkeeper.errors",
    "Machine": "innkeeper.api.machine",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - classes of several types
    """Import a public name at its first use."""
    from importlib import import_module

    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_SOURCES[name]), name)


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
