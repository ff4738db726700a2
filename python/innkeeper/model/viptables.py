# SPDX-License-Identifier: Apache-2.0
"""Rules in the manner of viptables, the firewall of OpenXT's Argo, on a policy in force. Pure.

viptables (libargo/app/viptables.c) keeps one list, numbered from 1, of which the
first rule that matches decides. A rule has a client, a server, a port and ACCEPT
or REJECT. Here they are changes of the rules of a topology that is up: an entry
is the number of a rule in the topology's file, or a rule that was added. So what
the file says is neither copied nor changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from innkeeper.errors import InnError, UnknownName, UsageError
from innkeeper.model.inet import HOST_CID
from innkeeper.model.policy import (
    ALL_PORTS,
    ANYBODY,
    HOST,
    PORT_MAXIMUM,
    QUOTA_DEFAULT,
    RING_QUOTA_DEFAULT,
    STREAM,
    Action,
    Operation,
    Policy,
    Rule,
    format_ports,
)
from innkeeper.model.topology import Topology

Entry = int | Rule
Target = Literal["ACCEPT", "REJECT"]
TARGETS: dict[Target, Action] = {"ACCEPT": "allow", "REJECT": "deny"}
# The original is asked at each message, of a stream's as of a datagram's.
OPERATIONS_DEFAULT: tuple[Operation, ...] = (*STREAM, "send")
# Of a rule that stands in no file.
ADDED_LINE = 0

_STAGE = "viptables"


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A rule as it was given on the command line; "" is any, or was not given.

    :ivar source: a machine's name or CID, of the client; or the host.
    :ivar destination: the same of the server, or a service.
    :ivar port: of the server: a number, or FIRST-LAST.
    """

    source: str = ""
    destination: str = ""
    port: str = ""
    target: Target | None = None
    operations: tuple[Operation, ...] = ()


def entries_of(policy: Policy) -> tuple[Entry, ...]:
    """The entries of a policy to which nothing was done yet."""
    return tuple(rule.number for rule in policy.rules)


def with_entries(policy: Policy, entries: tuple[Entry, ...]) -> Policy:
    """The policy that these entries make of a file's, numbered in their order.

    :raise InnError: an entry is of no rule of the file.
    """
    known = {rule.number: rule for rule in policy.rules}
    rules = []
    for number, entry in enumerate(entries, 1):
        rule = known.get(entry) if isinstance(entry, int) else entry
        if rule is None:
            raise InnError(
                f"there is no rule {entry} in what is stored of {policy.source}",
                stage=_STAGE,
                fix="`inn policy apply FILE` stores it anew",
            )
        rules.append(msgspec.structs.replace(rule, number=number))
    return msgspec.structs.replace(policy, rules=tuple(rules))


def insert(entries: tuple[Entry, ...], rule: Rule, number: int | None) -> tuple[Entry, ...]:
    """The entries with a rule before that of this number; at the end where it is None.

    :raise UsageError: there is no such place.
    """
    place = len(entries) if number is None else number - 1
    if not 0 <= place <= len(entries):
        raise UsageError(
            f"there is no place {number} among {len(entries)} rules",
            stage=_STAGE,
            fix=f"1 to {len(entries) + 1}, as `inn viptables -L` counts them",
        )
    return (*entries[:place], rule, *entries[place:])


def delete(entries: tuple[Entry, ...], number: int) -> tuple[Entry, ...]:
    """The entries without that of this number.

    :raise UsageError: there is none.
    """
    if not 1 <= number <= len(entries):
        raise UsageError(
            f"there is no rule {number}", stage=_STAGE, fix="`inn viptables -L` lists them"
        )
    return (*entries[: number - 1], *entries[number:])


def find(policy: Policy, topology: Topology, cids: Mapping[str, int], wish: Wish) -> int:
    """The number of the first rule in force that says what was wished.

    Operations and target count where they were given.

    :raise UsageError: no rule does.
    """
    source, destination, ports = _meant(topology, cids, wish)
    for rule in policy.rules:
        if (rule.source, rule.destination, rule.ports) != (source, destination, ports):
            continue
        if wish.target is not None and rule.action != TARGETS[wish.target]:
            continue
        if wish.operations and set(rule.operations) != set(wish.operations):
            continue
        return rule.number
    raise UsageError(
        f"no rule is {source} -> {destination} port {format_ports(ports)}",
        stage=_STAGE,
        fix="`inn viptables -L` lists them; -D NUMBER takes one away",
    )


def rule_of(topology: Topology, cids: Mapping[str, int], wish: Wish) -> Rule:
    """The rule that was wished.

    :param cids: CID of every machine of the topology that has one.
    :raise UsageError: something in it is unknown or missing.
    """
    if wish.target is None:
        raise UsageError("a rule needs -j", stage=_STAGE, fix="-j ACCEPT or -j REJECT")
    source, destination, ports = _meant(topology, cids, wish)
    return Rule(
        number=0,
        line=ADDED_LINE,
        source=source,
        destination=destination,
        ports=ports,
        operations=wish.operations or OPERATIONS_DEFAULT,
        action=TARGETS[wish.target],
    )


def rule_toml(rule: Rule) -> str:
    """A rule as a topology file has it."""
    lines = ["[[policy]]", f'from = "{rule.source}"', f'to = "{rule.destination}"']
    if rule.ports != ALL_PORTS:
        lines.append(f'port = "{format_ports(rule.ports)}"')
    if rule.operations != STREAM:
        quoted = ", ".join(f'"{one}"' for one in rule.operations)
        lines.append(f"operations = [{quoted}]")
    if rule.action != "allow":
        lines.append(f'action = "{rule.action}"')
    if rule.quota != QUOTA_DEFAULT:
        lines.append(f"quota = {rule.quota}")
    if rule.ring_quota != RING_QUOTA_DEFAULT:
        lines.append(f"ring_quota = {rule.ring_quota}")
    if rule.log:
        lines.append("log = true")
    return "\n".join(lines) + "\n"


def _meant(
    topology: Topology, cids: Mapping[str, int], wish: Wish
) -> tuple[str, str, tuple[tuple[int, int], ...]]:
    source = _machine(topology, cids, wish.source)
    service = topology.services.get(wish.destination)
    if service is None:
        services = tuple(topology.services)
        destination = _machine(topology, cids, wish.destination, *services)
        return source, destination, _ports(wish.port)
    if wish.port:
        raise UsageError(
            f"the service {service.name!r} has its own port", stage=_STAGE, fix="leave -q out"
        )
    return source, service.machine, ((service.port, service.port),)


def _machine(topology: Topology, cids: Mapping[str, int], given: str, *others: str) -> str:
    """The machine with this name or CID; without one, anybody."""
    if given in ("", ANYBODY):
        return ANYBODY
    if given.isdecimal():
        # Argo's domain 0 is the host.
        for name, cid in ((HOST, 0), (HOST, HOST_CID), *cids.items()):
            if cid == int(given):
                return name
    known = (*topology.members, HOST)
    if given in known:
        return given
    raise UnknownName("machine", given, (*known, *others), stage=_STAGE)


def _ports(given: str) -> tuple[tuple[int, int], ...]:
    if given in ("", "*"):
        return ALL_PORTS
    first, dash, last = given.partition("-")
    last = last if dash else first
    if first.isdecimal() and last.isdecimal() and int(first) <= int(last) <= PORT_MAXIMUM:
        return ((int(first), int(last)),)
    raise UsageError(f"{given!r} is no port", stage=_STAGE, fix="write 22 or 8000-8080")
