# SPDX-License-Identifier: Apache-2.0
"""The network card by value."""

from __future__ import annotations

import pytest

from innkeeper.hypervisors.qemu.plan import plan_qemu
from innkeeper.model.host import HostFacts
from innkeeper.model.image import Image
from innkeeper.model.machine import Machine
from innkeeper.model.network import Link

MAC = "02:11:22:33:44:55"


@pytest.mark.parametrize("network", ["tap", "bridge=br0"])
def test_a_tap_comes_as_a_descriptor(network: str, image: Image, host: HostFacts) -> None:
    plan = plan_qemu(Machine(name="box", network=network), image, host, link=Link(mac=MAC))
    argv = plan.argv
    assert argv[argv.index("-netdev") + 1] == "tap,id=net0,fd=<fd:tap>"
    assert f"virtio-net-device,netdev=net0,mac={MAC}" in argv
    assert plan.descriptors[-1] == "tap"


def test_the_kernel_carries_packets_where_it_can(image: Image, host: HostFacts) -> None:
    link = Link(mac=MAC, vhost=True)
    plan = plan_qemu(Machine(name="box", network="tap"), image, host, link=link)
    netdev = plan.argv[plan.argv.index("-netdev") + 1]
    assert netdev == "tap,id=net0,fd=<fd:tap>,vhost=on,vhostfd=<fd:vhost>"
    assert plan.descriptors[-2:] == ("tap", "vhost")


def test_the_user_network_needs_no_descriptor(image: Image, host: HostFacts) -> None:
    plan = plan_qemu(Machine(name="box", network="user"), image, host, link=Link(mac=MAC))
    assert "tap" not in plan.descriptors
    assert f"virtio-net-device,netdev=net0,mac={MAC}" in plan.argv
