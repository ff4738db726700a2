# SPDX-License-Identifier: Apache-2.0
"""Can this host give a guest its network? Asked before anything starts."""

from __future__ import annotations

from innkeeper.errors import HostError, UnknownName
from innkeeper.model.network import NetworkChoice
from innkeeper.networks.plan import parse_pools
from innkeeper.system.host import device_access
from innkeeper.system.network import ask_ip, may_configure_networks, network_program

_TUN = "/dev/net/tun"
_FIX = "run as root, or use --network user, which needs no rights"


def check_network(choice: NetworkChoice, *, pools: str) -> None:
    """Nothing, if a guest can have this network here.

    :raise HostError: this host or our rights do not allow it.
    :raise UnknownName: there is no such bridge.
    """
    if choice.kind not in ("tap", "bridge"):
        return
    what = f"--network {choice.kind}"
    if not may_configure_networks():
        raise HostError(f"{what} needs the capability CAP_NET_ADMIN", stage="network", fix=_FIX)
    refusal = device_access(_TUN)
    if refusal is not None:
        raise HostError(f"{what} needs {_TUN}: {refusal}", stage="network", fix=_FIX)
    if choice.kind == "tap":
        for name in ("ip", "nft", "dnsmasq"):
            network_program(name)
        parse_pools(pools)
        return
    known = tuple(str(link["ifname"]) for link in ask_ip("link", "show", "type", "bridge"))
    if choice.bridge not in known:
        raise UnknownName("bridge", choice.bridge, known, stage="network")
