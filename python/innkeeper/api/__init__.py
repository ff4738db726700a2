# SPDX-License-Identifier: Apache-2.0
"""The Python API: machines and commands in them, as `subprocess` would have it."""

from innkeeper.api.aio import AsyncGuestProcess, AsyncMachine
from innkeeper.api.completed import CompletedExec, ExecError
from innkeeper.api.forward import Forward
from innkeeper.api.machine import Machine
from innkeeper.api.process import GuestProcess

__all__ = [
    "AsyncGuestProcess",
    "AsyncMachine",
    "CompletedExec",
    "ExecError",
    "Forward",
    "GuestProcess",
    "Machine",
]
