# SPDX-License-Identifier: Apache-2.0
"""Guests and the host as inet addresses: a reserved prefix whose low bits are a CID. Pure.

::

    240.0.0.0/8              low 24 bits: CIDs below 2**24
    fd69:6e6e:6b70::/96      low 32 bits: every CID

No packet goes to these addresses. They let a program that knows names and inet
addresses alone say which guest it means (`NAME.inn` in the guest's /etc/hosts).
240.0.0.0/4 is reserved and not routed (RFC 1112, section 4); fd00::/8 is for local
use (RFC 4193), and the rest of the prefix is "innkp".
"""

from __future__ import annotations

import ipaddress

IPV4_NETWORK = ipaddress.IPv4Network("240.0.0.0/8")
IPV6_NETWORK = ipaddress.IPv6Network("fd69:6e6e:6b70::/96")

# VMADDR_CID_HOST: the host as its guests see it.
HOST_CID = 2
# The domain of the names; a guest called web is web.inn.
DOMAIN = "inn"


def inet_addresses(cid: int) -> tuple[str, ...]:
    """The addresses of a CID: IPv4, where it has one, before IPv6."""
    six = str(IPV6_NETWORK[cid])
    return (str(IPV4_NETWORK[cid]), six) if cid < IPV4_NETWORK.num_addresses else (six,)


def inet_cid(address: str) -> int | None:
    """The CID that an address means; None where it means none."""
    try:
        value = ipaddress.ip_address(address)
    except ValueError:
        return None
    network = IPV4_NETWORK if value.version == 4 else IPV6_NETWORK
    return int(value) - int(network.network_address) if value in network else None
