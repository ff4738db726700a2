# SPDX-License-Identifier: Apache-2.0
"""A guest's network card as QEMU's arguments. Pure."""

from __future__ import annotations

from innkeeper.model.machine import Machine
from innkeeper.model.network import Link

# Names of the inherited descriptors, beside those of every guest.
TAP = "tap"
VHOST = "vhost"


def netdev_options(machine: Machine, link: Link | None) -> tuple[str, ...]:
    """`-netdev` and its value, or nothing."""
    kind = machine.network_kind
    if kind == "none":
        return ()
    if kind == "user":
        forwards = [
            f"hostfwd={port.protocol}:{port.address}:{port.host_port}-:{port.guest_port}"
            for port in machine.ports
        ]
        return ("-netdev", ",".join(["user,id=net0", *forwards]))
    vhost = f",vhost=on,vhostfd=<fd:{VHOST}>" if link is not None and link.vhost else ""
    return ("-netdev", f"tap,id=net0,fd=<fd:{TAP}>{vhost}")


def network_device(link: Link | None, suffix: str) -> str:
    """The `-device` value of the card.

    :param suffix: "device" on virtio-mmio, "pci" on PCI.
    """
    mac = f",mac={link.mac}" if link is not None else ""
    return f"virtio-net-{suffix},netdev=net0{mac}"


def network_descriptors(machine: Machine, link: Link | None) -> tuple[str, ...]:
    """The descriptors that the keeper opens for the card."""
    if machine.network_kind not in ("tap", "bridge"):
        return ()
    return (TAP, VHOST) if link is not None and link.vhost else (TAP,)
