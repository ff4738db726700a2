# SPDX-License-Identifier: Apache-2.0
"""Making and removing a guest's tap network, and its place on a bridge.

Nothing of it is in a file. The interface goes with its last descriptor, so
with the keeper and its QEMU; the DHCP server dies with the keeper. Only the
nftables table outlives a killed keeper: a table whose interface can be made
belongs to nobody, and whoever makes that interface removes the table.
"""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Network

from innkeeper.errors import HostError
from innkeeper.networks.plan import (
    NOBODY,
    TapPlan,
    confine,
    drop_rules,
    free_networks,
    networks_in_use,
    parse_pools,
    plan_dnsmasq,
    plan_tap,
    preferred,
    tap_name,
    tap_of_table,
)
from innkeeper.system.network import (
    Tap,
    ask_ip,
    maps_user,
    may_configure_networks,
    network_program,
    nft_tables,
    open_tap,
    run_ip,
    run_nft,
    set_net_option,
)
from innkeeper.system.process import Child, find_program, spawn

_BRIDGE_TAP = "innb-"


def claim_tap(pools: str, *, identity: str) -> tuple[Tap, TapPlan]:
    """An interface with a network that nobody here uses; both are the caller's.

    :param identity: the same guest gets the same network again, where that is free.

    :raise HostError: there is none left, or this process may not make one.
    """
    taken = networks_in_use(ask_ip("-4", "route", "show", "table", "all"), ask_ip("-4", "address"))
    network: IPv4Network
    for network in free_networks(parse_pools(pools), taken, first=preferred(identity)):
        # Somebody else's claim may not have its address yet: then its name is taken.
        tap = open_tap(tap_name(network))
        if tap is not None:
            return tap, plan_tap(network)
    raise HostError(
        f"no network of {pools} is free on this host",
        stage="network",
        evidence=tuple(f"in use: {network}" for network in taken[:8]),
        fix="set INN_TAP_POOL to private addresses that nothing here uses",
    )


def set_up_tap(plan: TapPlan) -> tuple[str, ...]:
    """Give a claimed interface its address and rules; returns what stays changed on the host.

    :raise HostError: with what the program said that refused.
    """
    # The guest speaks to nobody over IPv6, not even to the host's link-local addresses.
    set_net_option(f"ipv6/conf/{plan.tap}/disable_ipv6", 1)
    set_net_option(f"ipv4/conf/{plan.tap}/rp_filter", 1)
    run_nft(plan.rules)
    run_ip(plan.ip)
    if set_net_option("ipv4/ip_forward", 1):
        return ("turned on net.ipv4.ip_forward, which NAT needs; it stays on",)
    return ()


def remove_table(table: str) -> None:
    """Remove a table, also one that is not there. Never raises."""
    with contextlib.suppress(HostError):
        run_nft(drop_rules(table))


def start_dnsmasq(plan: TapPlan, *, mac: str, hostname: str) -> Child:
    """The DHCP and DNS server of a guest; its stderr is the caller's to read.

    :raise HostError: it cannot be started.
    """
    argv = plan_dnsmasq(plan, mac=mac, hostname=hostname, program=network_program("dnsmasq"))
    setpriv = find_program("setpriv")
    if setpriv is not None:
        argv = confine(argv, setpriv=setpriv, drop_user=maps_user(NOBODY))
    # Its words are read, so they are not to be a translator's.
    return spawn(argv, name="dnsmasq", capture_stderr=True, env={"LC_ALL": "C"})


def sweep_tables() -> tuple[str, ...]:
    """Remove the tables of guests that are gone; returns their names."""
    if not may_configure_networks():
        return ()
    swept = []
    for table in nft_tables():
        name = tap_of_table(table)
        if name is None:
            continue
        with contextlib.suppress(HostError):
            tap = open_tap(name)
            if tap is None:
                continue
            try:
                run_nft(drop_rules(table))
                swept.append(table)
            finally:
                tap.close()
    return tuple(swept)


def bridge_tap_name(mac: str) -> str:
    """The interface's name on a bridge for the guest with this MAC address."""
    return _BRIDGE_TAP + mac.replace(":", "")[4:]


def attach_tap(bridge: str, mac: str) -> Tap:
    """A new interface on a bridge of the host; the caller closes it.

    :raise HostError: it cannot be made or attached.
    """
    name = bridge_tap_name(mac)
    tap = open_tap(name)
    if tap is None:
        raise HostError(
            f"there is an interface {name} already",
            stage="network",
            fix="another guest has this MAC address; give the machine another name",
        )
    try:
        set_net_option(f"ipv6/conf/{name}/disable_ipv6", 1)
        run_ip((f"link set dev {name} master {bridge} up",))
    except BaseException:
        tap.close()
        raise
    return tap
