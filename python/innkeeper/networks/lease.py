# SPDX-License-Identifier: Apache-2.0
"""An address by DHCP, asked for in the guest: the script that runs there, and what it answers."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Interface

import msgspec

# The stage "network" has 20 s.
LEASE_LIMIT_S = 18.0

# udhcpc goes to the background when it has a lease, and renews it from there.
# The guest's script for it writes resolv.conf beside the old one and renames it.
_ASK = """
udhcpc -n -t 10 -T 1 -i eth0 -p /run/udhcpc.eth0.pid -x hostname:"$1" \
    -s /usr/share/udhcpc/default.script >/run/udhcpc.log 2>&1 </dev/null || {
    cat /run/udhcpc.log
    exit 1
}
"""

# A guest with an init of its own configures itself.
_WAIT = """
left=80
until ip -4 -o address show scope global | grep -q inet; do
    left=$((left - 1))
    [ $left -gt 0 ] || { echo "no address yet"; exit 1; }
    sleep 0.2
done
"""

_SHOW = """
ip -4 -o address show scope global
ip -4 route show default
"""

_ADDRESS = re.compile(rb"\binet ([0-9.]{7,15}/[0-9]{1,2})\b")
_GATEWAY = re.compile(rb"\bdefault via ([0-9.]{7,15})\b")


class Lease(msgspec.Struct, frozen=True):
    """An address that a guest has.

    :ivar gateway: "" where there is none.
    """

    address: str
    netmask: str
    gateway: str


def lease_script(*, own_client: bool) -> str:
    """A shell script for the guest, with the host name as its argument.

    :param own_client: the guest has a DHCP client that runs by itself.
    """
    return (_WAIT if own_client else _ASK) + _SHOW


def parse_lease(output: bytes) -> Lease | None:
    """The guest's answer, checked; None where it tells of no address."""
    address = _ADDRESS.search(output)
    gateway = _GATEWAY.search(output)
    if address is None:
        return None
    try:
        interface = IPv4Interface(address[1].decode())
        via = str(IPv4Address(gateway[1].decode())) if gateway else ""
    except ValueError:
        return None
    return Lease(str(interface.ip), str(interface.netmask), via)
