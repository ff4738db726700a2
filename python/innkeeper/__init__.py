# SPDX-License-Identifier: Apache-2.0
"""innkeeper: Linux guests from one command, with declared doors to their host.

The names below come from `innkeeper.api` and `innkeeper.errors` at their first
use: `inn --version` imports this module too, and has no time for more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from innkeeper._version import __version__

if TYPE_CHECKING:
    from innkeeper.api import (
        AsyncMachine,
        CompletedExec,
        ExecError,
        Forward,
        GuestProcess,
        Machine,
    )
    from innkeeper.errors import InnError

__all__ = [
    "AsyncMachine",
    "CompletedExec",
    "ExecError",
    "Forward",
    "GuestProcess",
    "InnError",
    "Machine",
    "__version__",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - classes of several types
    """Import a public name at its first use."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    source = "innkeeper.errors" if name == "InnError" else "innkeeper.api"
    return getattr(import_module(source), name)


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
