# SPDX-License-Identifier: Apache-2.0
"""The names that a guest knows others by, and what it is told of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from innkeeper.agent.frames import encode_frame
from innkeeper.agent.pb import announce_pb2
from innkeeper.model.inet import DOMAIN, HOST_CID, inet_addresses
from innkeeper.model.policy import HOST

if TYPE_CHECKING:
    from innkeeper.model.topology import Topology


def guest_names(topology: Topology | None, cids: Mapping[str, int]) -> dict[str, int]:
    """The CID of each name, without the domain; machines before services. Pure.

    :param topology: of the guest; None where it is in none, and knows the host alone.
    :param cids: CID of every machine of the topology.
    """
    found = {HOST: HOST_CID, **cids}
    if topology is not None:
        found |= {one.name: found[one.machine] for one in topology.services.values()}
    return found


def names_frame(names: Mapping[str, int]) -> bytes:
    """A frame for the agent, which lays the names in /etc/hosts. Pure."""
    told = [
        announce_pb2.Name(name=f"{name}.{DOMAIN}", addresses=inet_addresses(cid))
        for name, cid in names.items()
    ]
    message = announce_pb2.HostMessage(names=announce_pb2.Names(names=told))
    return encode_frame(message.SerializeToString())
