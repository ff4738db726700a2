# SPDX-License-Identifier: Apache-2.0
"""A guest's network: its host side before QEMU starts, its guest side in the stage "network".

======  ==================================  =====================================
kind    host side                           guest side
======  ==================================  =====================================
user    inside QEMU                         told by the agent
tap     interface, NAT, dnsmasq, ports      told by the agent; others use DHCP
bridge  interface on the bridge             DHCP of whoever serves the bridge
======  ==================================  =====================================
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from innkeeper.errors import GuestError
from innkeeper.hypervisors.qemu.network import TAP, VHOST
from innkeeper.keeper.plan import RunPlan
from innkeeper.keeper.resolv import ResolvFollower, read_search_domains
from innkeeper.keeper.say import say
from innkeeper.model.network import GuestNetwork, parse_network
from innkeeper.networks.lease import LEASE_LIMIT_S, lease_script, parse_lease

# QEMU's defaults for -netdev user (its manual, "User Networking"). Its name
# server asks the host's, and notices when those change.
_USER = {
    "address": "10.0.2.15",
    "netmask": "255.255.255.0",
    "gateway": "10.0.2.2",
}
_USER_NAMESERVER = "10.0.2.3"


class NetworkSide:
    """The host side of one guest's network. Made by :func:`open_network`.

    :ivar descriptors: for QEMU, by their names in the plan.
    :ivar network: what is known of the network; None without one.
    :ivar notes: what stays changed on the host.
    """

    def __init__(
        self,
        plan: RunPlan,
        *,
        descriptors: dict[str, int],
        network: GuestNetwork | None,
        nameserver: str = "",
        notes: tuple[str, ...] = (),
    ) -> None:
        self._plan = plan
        self.descriptors = descriptors
        self.network = network
        self.notes = notes
        self._nameserver = nameserver

    async def configure(self, agent_socket: Path, stack: AsyncExitStack) -> None:
        """Have the agent give the guest its address, and its name servers for as long as it runs.

        :raise InnError: the agent refused or could not be reached, or no DHCP
            server answered.
        """
        network = self.network
        assert network is not None
        if network.kind == "bridge":
            self.network = await asyncio.to_thread(self._lease, agent_socket, network)
            return
        domains = read_search_domains()
        await asyncio.to_thread(self._tell, agent_socket, network, domains)
        follower = ResolvFollower(agent_socket, self._nameserver, domains)
        stack.push_async_callback(follower.close)

    def without_guest(self) -> GuestNetwork | None:
        """The network of a guest whose agent is not waited for: its address is its own affair."""
        network = self.network
        if network is None or network.kind == "tap":
            return network
        return msgspec.structs.replace(network, address="", netmask="", gateway="")

    def _tell(
        self, agent_socket: Path, network: GuestNetwork, search_domains: tuple[str, ...]
    ) -> None:
        # gRPC takes 12 MB of the keeper; guests without a network do not pay for it.
        from innkeeper.agent.control import ControlClient

        with ControlClient(agent_socket) as agent:
            agent.configure_network(
                address=network.address,
                netmask=network.netmask,
                gateway=network.gateway,
                nameservers=(self._nameserver,),
                search_domains=search_domains,
            )

    def _lease(self, agent_socket: Path, network: GuestNetwork) -> GuestNetwork:
        from innkeeper.agent.control import ControlClient

        own_client = self._plan.image.root is not None
        script = lease_script(own_client=own_client)
        with ControlClient(agent_socket) as agent:
            done = agent.launch(
                ("/bin/sh", "-c", script, "lease", self._plan.machine.name),
                wait_for_exit=True,
                timeout_s=LEASE_LIMIT_S,
            )
        lease = parse_lease(done.output) if done.code == 0 else None
        if lease is None:
            said = done.output[-2048:].decode("utf-8", "replace").splitlines()
            shown = ("".join(c if c.isprintable() else " " for c in line) for line in said[-8:])
            bridge = parse_network(self._plan.machine.network).bridge
            raise GuestError(
                f"no DHCP server gave the guest an address on the bridge {bridge}",
                stage="network",
                evidence=tuple(shown),
                fix="look whether one serves that bridge, or use --wait none and "
                "configure the guest yourself",
            )
        return msgspec.structs.replace(
            network, address=lease.address, netmask=lease.netmask, gateway=lease.gateway
        )


async def open_network(plan: RunPlan, stack: AsyncExitStack) -> NetworkSide:
    """Everything of a guest's network that must be there before QEMU; `stack` removes it.

    :raise InnError: it cannot be had; nothing is left of it then.
    """
    choice = parse_network(plan.machine.network)
    if choice.kind == "none" or plan.link is None:
        return NetworkSide(plan, descriptors={}, network=None)
    mac = plan.link.mac
    if choice.kind == "user":
        network = GuestNetwork(kind="user", mac=mac, **_USER)
        return NetworkSide(plan, descriptors={}, network=network, nameserver=_USER_NAMESERVER)
    # These two are needed by few guests, and load what others do without.
    from innkeeper.keeper.tapnet import TapSide, open_vhost
    from innkeeper.networks.tap import attach_tap

    descriptors: dict[str, int] = {}
    if plan.link.vhost:
        descriptors[VHOST] = open_vhost(stack)
    if choice.kind == "bridge":
        tap = attach_tap(choice.bridge, mac)
        stack.callback(tap.close)
        network = GuestNetwork(kind="bridge", mac=mac, interface=tap.name)
        return NetworkSide(plan, descriptors={**descriptors, TAP: tap.fileno()}, network=network)
    side = await TapSide.open(plan, stack, tell=say)
    return NetworkSide(
        plan,
        descriptors={**descriptors, TAP: side.fd},
        network=side.network,
        nameserver=side.network.gateway,
        notes=side.notes,
    )
