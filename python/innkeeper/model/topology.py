# SPDX-License-Identifier: Apache-2.0
"""A topology: several machines with their services and who may reach whom. Pure.

`innkeeper.model.topology_file` reads one from its file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from innkeeper.model.machine import Machine, Wait
from innkeeper.model.policy import Action, Operation, Policy


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of a topology.

    :ivar after: names of those that are ready before it starts.
    :ivar wait: what its being ready means; None is a machine's own default.
    """

    machine: Machine
    after: tuple[str, ...] = ()
    wait: Wait | None = None


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A port of a guest, or of the host, under a name.

    :ivar machine: a machine, or `HOST`.
    :ivar target: what the host's port leads to, as "unix:/path" or "tcp:ADDRESS:PORT";
        "" for a guest's, where the guest itself listens.
    """

    name: str
    machine: str
    port: int
    target: str = ""


class Expectation(msgspec.Struct, frozen=True, kw_only=True):
    """What a test of the file says must come of a wish.

    :ivar line: where it begins in its file.
    """

    line: int
    source: str
    destination: str
    port: int
    operation: Operation
    expect: Action


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """What one topology file says.

    :ivar mac_permissive: whether wildcard rings may be registered.
    """

    name: str
    members: dict[str, Member]
    services: dict[str, Service] = {}
    policy: Policy = Policy()
    expectations: tuple[Expectation, ...] = ()
    mac_permissive: bool = False

    def order(self) -> tuple[tuple[str, ...], ...]:
        """The machines in the order of their start: each group when the one before is ready."""
        groups, _ = start_groups({name: one.after for name, one in self.members.items()})
        return groups

    def host_services(self) -> dict[int, Service]:
        """The services of the host, by the port that guests see."""
        return {one.port: one for one in self.services.values() if one.target}


def start_groups(
    after: Mapping[str, Collection[str]],
) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """Names in groups, each free of those before it; and those that wait for each other.

    :param after: for each name those that come before it.
    """
    left, groups = dict(after), list[tuple[str, ...]]()
    while group := tuple(name for name, others in left.items() if not left.keys() & set(others)):
        groups.append(group)
        for name in group:
            del left[name]
    return tuple(groups), tuple(left)
