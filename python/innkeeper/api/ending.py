# SPDX-License-Identifier: Apache-2.0
"""Ending a machine's guest so that its name is free afterwards."""

from __future__ import annotations

import time

from innkeeper.errors import GuestError
from innkeeper.keeper.machines import stop_machine
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import guest_lives

# A keeper that has told of its guest's end closes sockets and removes a folder.
_RELEASE_LIMIT_S = 5.0
_BETWEEN_S = 0.005


def stop_and_release(layout: Layout, name: str, *, timeout_s: float) -> bool:
    """Stop a guest and wait until its keeper has let go of the name; False when it did not run.

    :raise UnknownName: there is neither a machine nor a guest with this name.
    :raise InnError: it could not be stopped.
    """
    try:
        stopped = stop_machine(layout, name, timeout_s=timeout_s)
    except GuestError:
        # Its keeper is on the way out and takes no requests any more.
        if not _released(layout, name):
            raise
        return False
    if stopped:
        _released(layout, name)
    return stopped


def _released(layout: Layout, name: str) -> bool:
    """True once no keeper holds the name. A lock has no event to wait for."""
    deadline = time.monotonic() + _RELEASE_LIMIT_S
    while guest_lives(layout, name):
        if time.monotonic() > deadline:
            return False
        time.sleep(_BETWEEN_S)
    return True
