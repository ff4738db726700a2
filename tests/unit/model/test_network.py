# SPDX-License-Identifier: Apache-2.0
"""What networks may be asked for, and MAC addresses."""

from __future__ import annotations

import pytest

from innkeeper.errors import UsageError
from innkeeper.model.machine import Machine
from innkeeper.model.network import NetworkChoice, mac_address, parse_network
from innkeeper.model.ports import PublishedPort

PORTS = (PublishedPort(host_port=8080, guest_port=80),)


def test_networks_that_may_be_asked_for() -> None:
    assert parse_network("tap") == NetworkChoice(kind="tap")
    assert parse_network("bridge=br-lan.7") == NetworkChoice(kind="bridge", bridge="br-lan.7")
    for text in ("", "bridge", "bridge=", "tap=x", "bridge=a/b", "bridge=" + "b" * 16, "tap\n"):
        with pytest.raises(UsageError, match="is not a network"):
            parse_network(text)
        with pytest.raises(UsageError, match="is not a network"):
            Machine(name="box", network=text)


def test_ports_need_a_network_where_the_host_is_between() -> None:
    assert Machine(name="box", network="tap", ports=PORTS).network_kind == "tap"
    with pytest.raises(UsageError, match="a guest on a bridge has no published ports"):
        Machine(name="box", network="bridge=br0", ports=PORTS)


def test_a_mac_address_is_its_identitys_own() -> None:
    mac = mac_address("host", "/var/lib/innkeeper", "box")
    assert mac == mac_address("host", "/var/lib/innkeeper", "box")
    assert mac != mac_address("other", "/var/lib/innkeeper", "box")
    assert mac != mac_address("host", "/var/lib/innkeepe", "rbox")
    # Locally administered, and for one receiver.
    assert all(int(mac_address(str(n))[:2], 16) & 3 == 2 for n in range(100))
