# SPDX-License-Identifier: Apache-2.0
"""Networks of a guest: what may be asked for, its MAC address, and what came of it."""

from __future__ import annotations

import hashlib
import re
from typing import Literal

import msgspec

from innkeeper.errors import UsageError

NetworkKind = Literal["none", "user", "tap", "bridge"]

# An interface's name in Linux: 15 bytes, no slash and no space (IFNAMSIZ, linux/if.h).
_PATTERN = r"none|user|tap|bridge=[A-Za-z0-9_.-]{1,15}"


class NetworkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A network as asked for.

    :ivar bridge: the host's bridge, for the kind "bridge".
    """

    kind: NetworkKind
    bridge: str = ""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """The guest's network card.

    :ivar vhost: the kernel carries its packets (/dev/vhost-net).
    """

    mac: str
    vhost: bool = False


class GuestNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """What a running guest's network is.

    :ivar address: the guest's IPv4 address; "" where only the guest knows it.
    :ivar netmask: as "255.255.255.252".
    :ivar interface: the host's interface that leads to the guest.
    """

    kind: NetworkKind
    mac: str
    address: str = ""
    netmask: str = ""
    gateway: str = ""
    interface: str = ""


def parse_network(text: str) -> NetworkChoice:
    """A network as "none", "user", "tap" or "bridge=NAME".

    :raise UsageError: it is none of them.
    """
    if re.fullmatch(_PATTERN, text) is None:
        raise UsageError(f"{text!r} is not a network", fix="use none, user, tap or bridge=NAME")
    kind, _, bridge = text.partition("=")
    return NetworkChoice(kind=msgspec.convert(kind, NetworkKind), bridge=bridge)


def mac_address(*identity: str) -> str:
    """The MAC address that belongs to an identity: always the same one, locally administered."""
    digest = bytearray(hashlib.sha256("\0".join(identity).encode()).digest()[:6])
    # IEEE 802: bit 0 of the first byte is for groups, bit 1 says "locally administered".
    digest[0] = digest[0] & 0xFC | 0x02
    return digest.hex(":")
