# SPDX-License-Identifier: Apache-2.0
"""Published ports: a port of the host that leads to a port of the guest."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal

import msgspec

from innkeeper.errors import UsageError

Protocol = Literal["tcp", "udp"]

# Published to everybody only where that is written.
DEFAULT_ADDRESS = "127.0.0.1"


_PORT = re.compile(
    r"(?:(?P<address>[0-9.]+):)?(?P<host>[0-9]{1,5}):(?P<guest>[0-9]{1,5})(?:/(?P<protocol>tcp|udp))?"
)


class PublishedPort(msgspec.Struct, frozen=True, kw_only=True):
    """Connections to `address:host_port` of the host reach `guest_port` of the guest."""

    guest_port: int
    host_port: int
    address: str = DEFAULT_ADDRESS
    protocol: Protocol = "tcp"

    def __str__(self) -> str:
        return f"{self.address}:{self.host_port}:{self.guest_port}/{self.protocol}"


def parse_port(text: str) -> PublishedPort:
    """A published port as "[ADDRESS:]HOST:GUEST[/tcp|udp]".

    :raise UsageError: it is none.
    """
    match = _PORT.fullmatch(text)
    numbers = (int(match["host"]), int(match["guest"])) if match else (0, 0)
    chosen = _address(match["address"]) if match else None
    if match is None or chosen is None or not all(1 <= number <= 65535 for number in numbers):
        raise UsageError(
            f"{text!r} is not a published port",
            fix="write it as 8080:80, 127.0.0.1:8080:80 or 5353:53/udp",
        )
    return PublishedPort(
        address=chosen,
        host_port=numbers[0],
        guest_port=numbers[1],
        protocol="udp" if match["protocol"] == "udp" else "tcp",
    )


def _address(text: str | None) -> str | None:
    try:
        return str(ipaddress.IPv4Address(text)) if text else DEFAULT_ADDRESS
    except ValueError:
        return None
