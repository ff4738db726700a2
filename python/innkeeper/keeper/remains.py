# SPDX-License-Identifier: Apache-2.0
"""What a killed keeper left on the host: its runtime folder, and rules of its network."""

from __future__ import annotations

from innkeeper.registry.layout import Layout
from innkeeper.registry.names import remove_dead
from innkeeper.registry.records import read_state
from innkeeper.system.process import wait_for_pid

_QEMU_LIMIT_S = 3.0


def remove_remains(layout: Layout, name: str) -> None:
    """Remove what is left of a guest whose keeper is gone; one that lives keeps it."""
    state = read_state(layout.guest(name))
    if not remove_dead(layout, name):
        return
    if state is not None and state.qemu_pid is not None:
        # It was killed with its keeper, and has the network's interface until it has ended.
        wait_for_pid(state.qemu_pid, _QEMU_LIMIT_S)
    sweep_networks()


def sweep_networks() -> None:
    """Remove the network rules of all guests that are gone, as far as our rights go."""
    from innkeeper.networks.tap import sweep_tables

    sweep_tables()
