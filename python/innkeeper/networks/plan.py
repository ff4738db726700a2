# SPDX-License-Identifier: Apache-2.0
"""A guest's own network on a tap device, as values: addresses, rules, the DHCP and DNS server.

::

    guest 10.213.0.2 ── inn-0ad50000 ── host 10.213.0.1 ── NAT ── wherever the host can go

Each guest has a /30 of its own. The device's name is the network's address
in hex, so that the kernel, which gives a name once, gives an address once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Interface, IPv4Network

import msgspec

from innkeeper.errors import UsageError

# Private ranges that few use, tried in this order. INN_TAP_POOL names others.
DEFAULT_POOLS = "10.213.0.0/16,172.29.213.0/24,192.168.213.0/24"

_PREFIX = 30
_TAP = "inn-"
_TABLE = "inn_"
_TABLE_NAME = re.compile(r"inn_([0-9a-f]{8})")

# What dnsmasq needs of root's rights: DHCP answers go to guests without an address.
_CAPABILITIES = "-all,+net_admin,+net_raw,+net_bind_service"
# Debian's user "nobody".
NOBODY = 65534


class TapPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A tap network that is to be made.

    :ivar tap: name of the interface.
    :ivar ip: lines of `ip -batch`.
    :ivar rules: nftables rules; they replace a table that was left over.
    """

    tap: str
    table: str
    host: str
    guest: str
    netmask: str
    ip: tuple[str, ...]
    rules: str


def parse_pools(text: str) -> tuple[IPv4Network, ...]:
    """Ranges of addresses as "10.213.0.0/16,172.29.213.0/24".

    :raise UsageError: it is none, or one is too small.
    """
    try:
        pools = tuple(IPv4Network(part.strip()) for part in text.split(","))
    except ValueError as exc:
        raise UsageError(
            f"INN_TAP_POOL: {exc}", stage="network", fix=f"write it as {DEFAULT_POOLS}"
        ) from exc
    if any(pool.prefixlen > _PREFIX for pool in pools):
        raise UsageError("INN_TAP_POOL: a range is smaller than a /30", stage="network")
    return pools


def free_networks(
    pools: Iterable[IPv4Network], taken: Iterable[IPv4Network], *, first: int = 0
) -> Iterator[IPv4Network]:
    """The /30 networks of the pools that touch nothing of what is taken.

    :param first: which of each pool comes first, counted on from its beginning, and around.
    """
    used = tuple(taken)
    for pool in pools:
        near = [network for network in used if network.overlaps(pool)]
        if any(pool.subnet_of(network) for network in near):
            continue
        count = 1 << (_PREFIX - pool.prefixlen)
        for index in range(first, first + count):
            start = int(pool.network_address) + 4 * (index % count)
            network = IPv4Network((start, _PREFIX))
            if not any(network.overlaps(other) for other in near):
                yield network


def preferred(identity: str) -> int:
    """Which network a guest would have, if it could choose: always the same one."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "big")


def networks_in_use(
    routes: Iterable[dict[str, object]], addresses: Iterable[dict[str, object]]
) -> tuple[IPv4Network, ...]:
    """What `ip -json` says is in use here: all routes but the default one, all addresses."""
    found = set()
    for route in routes:
        try:
            found.add(IPv4Network(str(route.get("dst"))))
        except ValueError:  # "default", and whatever else is no network
            continue
    for link in addresses:
        infos = link.get("addr_info")
        for info in infos if isinstance(infos, list) else ():
            if info.get("family") == "inet":
                found.add(IPv4Interface(f"{info['local']}/{info['prefixlen']}").network)
    return tuple(sorted(network for network in found if network.prefixlen > 0))


def tap_name(network: IPv4Network) -> str:
    """The interface's name for a network."""
    return f"{_TAP}{int(network.network_address):08x}"


def tap_of_table(table: str) -> str | None:
    """The interface that a table of ours belongs to; None for somebody else's table."""
    match = _TABLE_NAME.fullmatch(table)
    return f"{_TAP}{match[1]}" if match else None


def plan_tap(network: IPv4Network) -> TapPlan:
    """The host's side of a guest's network."""
    tap = tap_name(network)
    table = tap.replace(_TAP, _TABLE)
    host, guest = (str(address) for address in network.hosts())
    return TapPlan(
        tap=tap,
        table=table,
        host=host,
        guest=guest,
        netmask=str(network.netmask),
        ip=(f"address add {host}/{_PREFIX} dev {tap}", f"link set dev {tap} up"),
        rules=_rules(tap, table, guest),
    )


def drop_rules(table: str) -> str:
    """The rules that remove a table, also one that is not there."""
    return f"table inet {table}\ndelete table inet {table}\n"


def _rules(tap: str, table: str, guest: str) -> str:
    """NAT for the guest; nobody but the host opens a connection to it.

    A guest's packet to another guest passes this table and the other's, which
    drops it: what is accepted in one table is not so in the next.
    """
    return drop_rules(table) + (
        f"table inet {table} {{\n"
        "  chain forward {\n"
        "    type filter hook forward priority filter; policy accept;\n"
        f'    iifname "{tap}" meta nfproto != ipv4 drop\n'
        f'    iifname "{tap}" ip saddr != {guest} drop\n'
        f'    oifname "{tap}" ct state established,related accept\n'
        f'    oifname "{tap}" drop\n'
        "  }\n"
        "  chain postrouting {\n"
        "    type nat hook postrouting priority srcnat; policy accept;\n"
        f'    ip saddr {guest} oifname != "{tap}" masquerade\n'
        "  }\n"
        "}\n"
    )


def plan_dnsmasq(plan: TapPlan, *, mac: str, hostname: str, program: str) -> tuple[str, ...]:
    """The DHCP and DNS server for one guest, in the foreground, without a file of its own.

    It follows the host's /etc/resolv.conf by itself.
    """
    return (
        program,
        # In the foreground, with its log on stderr.
        "--no-daemon",
        "--conf-file=/dev/null",
        "--no-hosts",
        f"--interface={plan.tap}",
        "--except-interface=lo",
        "--bind-interfaces",
        f"--dhcp-range={plan.guest},{plan.guest},{plan.netmask},1h",
        f"--dhcp-host={mac},{plan.guest},{hostname}",
        "--dhcp-authoritative",
        "--leasefile-ro",
        # The one address is the guest's; asking whether somebody has it takes 3 s.
        "--no-ping",
        "--quiet-dhcp",
        # Names of private networks are not asked for outside.
        "--bogus-priv",
        "--cache-size=150",
    )


def confine(argv: tuple[str, ...], *, setpriv: str, drop_user: bool) -> tuple[str, ...]:
    """The same program with the rights that it needs, and no others.

    The death signal is set anew: changing the user clears it (prctl(2)).

    :param drop_user: as nobody; a user namespace with one user has none.
    """
    user = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups") if drop_user else ()
    ambient = (f"--inh-caps={_CAPABILITIES}", f"--ambient-caps={_CAPABILITIES}")
    return (
        setpriv,
        *user,
        *ambient,
        f"--bounding-set={_CAPABILITIES}",
        "--no-new-privs",
        "--pdeathsig=KILL",
        *argv,
    )
