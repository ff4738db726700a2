# SPDX-License-Identifier: Apache-2.0
"""The stage "network": QEMU's user-mode network is static, so the agent is told its address."""

from __future__ import annotations

import asyncio
from pathlib import Path

# QEMU's defaults for -netdev user (its manual, "User Networking").
USER_ADDRESS = "10.0.2.15"
USER_NETMASK = "255.255.255.0"
USER_GATEWAY = "10.0.2.2"
USER_NAMESERVER = "10.0.2.3"


async def configure_user_network(agent_socket: Path) -> None:
    """Give the guest QEMU's user-mode addresses.

    :raise GuestError: the agent refused or could not be reached.
    """
    await asyncio.to_thread(_configure, agent_socket)


def _configure(agent_socket: Path) -> None:
    # gRPC takes 12 MB of the keeper; guests without a network do not pay for it.
    from innkeeper.agent.control import ControlClient

    with ControlClient(agent_socket) as agent:
        agent.configure_network(
            address=USER_ADDRESS,
            netmask=USER_NETMASK,
            gateway=USER_GATEWAY,
            nameservers=(USER_NAMESERVER,),
        )
