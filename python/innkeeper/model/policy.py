# SPDX-License-Identifier: Apache-2.0
"""Who may reach whom: rules between guests, and what follows from them. Pure.

The first rule that matches decides; where none does, the answer is no. A rule
speaks of one direction: `source` asks, `destination` is asked. A stream needs
both "connect" (the asker may ask) and "listen" (the asked may answer); a rule
that names no operations means these two. Rings have operations of their own.

The rules know neither what carries a message nor where a guest runs.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, get_args

import msgspec

Operation = Literal[
    "connect", "listen", "register-single", "register-any", "send", "notify", "query"
]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
STREAM: tuple[Operation, ...] = ("connect", "listen")
RINGS: tuple[Operation, ...] = tuple(one for one in OPERATIONS if one not in STREAM)
Action = Literal["allow", "deny"]

ANYBODY = "*"
# The host's name among machines. What it asks by streams is its owner's wish, and
# judged by no rule; what guests ask of it is, as are rings both ways.
HOST = "host"
# VMADDR_PORT_ANY, 2**32 - 1, is no port.
PORT_MAXIMUM = 2**32 - 2
ALL_PORTS = ((0, PORT_MAXIMUM),)
# Streams at a time between two guests where no rule says otherwise.
QUOTA_DEFAULT = 256
# Percent of a wildcard ring that one sender may fill.
RING_QUOTA_DEFAULT = 50


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule.

    :ivar number: its place among the rules, from 1.
    :ivar line: where it begins in its file.
    :ivar source: a machine's name, "host", or "*" for any of them.
    :ivar destination: the same.
    :ivar ports: ranges of the destination's ports, first and last.
    :ivar quota: most streams at a time between the two.
    :ivar log: write each decision by it to the audit.
    :ivar ring_quota: percent of the destination's wildcard rings that the source may fill.
    """

    number: int
    line: int
    source: str
    destination: str
    ports: tuple[tuple[int, int], ...] = ALL_PORTS
    operations: tuple[Operation, ...] = STREAM
    action: Action = "allow"
    quota: int = QUOTA_DEFAULT
    log: bool = False
    ring_quota: int = RING_QUOTA_DEFAULT

    def concerns(self, source: str, destination: str, operation: Operation) -> bool:
        """Whether it says something of these two, for some port."""
        return (
            operation in self.operations
            and self.source in (source, ANYBODY)
            and self.destination in (destination, ANYBODY)
        )

    def matches(self, source: str, destination: str, port: int, operation: Operation) -> bool:
        """Whether it decides this wish, if no earlier rule does."""
        return self.concerns(source, destination, operation) and any(
            first <= port <= last for first, last in self.ports
        )


class Policy(msgspec.Struct, frozen=True):
    """Rules in their order.

    :ivar source: the file they are from, for explanations.
    """

    rules: tuple[Rule, ...] = ()
    source: str = ""


class Judgement(msgspec.Struct, frozen=True):
    """What becomes of one wish.

    :ivar rule: which decided; None where none matched.
    """

    allowed: bool
    rule: Rule | None = None


class Grant(msgspec.Struct, frozen=True):
    """Ports that one rule allows.

    :ivar rule: the rule.
    """

    first: int
    last: int
    rule: Rule

    def holds(self, port: int) -> bool:
        """Whether the port is one of them."""
        return self.first <= port <= self.last


def judge(
    policy: Policy, source: str, destination: str, port: int, operation: Operation = "connect"
) -> Judgement:
    """Whether `source` may do `operation` at this port of `destination`, and by which rule."""
    for rule in policy.rules:
        if rule.matches(source, destination, port, operation):
            return Judgement(rule.action == "allow", rule)
    return Judgement(allowed=False)


def judge_stream(policy: Policy, source: str, destination: str, port: int) -> Judgement:
    """Whether `source` gets a stream to this port: it may ask, and the other may answer."""
    asked = judge(policy, source, destination, port, "connect")
    if not asked.allowed:
        return asked
    answered = judge(policy, source, destination, port, "listen")
    return asked if answered.allowed else answered


def judge_ring(
    policy: Policy, source: str, destination: str, port: int, operation: Operation
) -> Judgement:
    """What becomes of a wish about a ring.

    :param source: who sends, or would; :data:`ANYBODY` for a wildcard ring.
    :param destination: whose the ring is, or would be.
    """
    rules = open_to_host(policy) if HOST in (source, destination) else policy
    judgement = judge(rules, source, destination, port, operation)
    added = judgement.rule is not None and not judgement.rule.number
    return Judgement(judgement.allowed) if added else judgement


def open_to_host(policy: Policy) -> Policy:
    """The policy, where rings that no rule decides about are allowed.

    For the host's programs: who runs them owns the guests. The rule that was
    added has the number 0.
    """
    rest = Rule(number=0, line=0, source=ANYBODY, destination=ANYBODY, operations=RINGS)
    return Policy((*policy.rules, rest), policy.source)


def grants(
    policy: Policy, source: str, destination: str, operation: Operation = "connect"
) -> tuple[Grant, ...]:
    """All ports that `source` may reach at `destination`, in order, without overlaps."""
    concerned = [rule for rule in policy.rules if rule.concerns(source, destination, operation)]
    # Between two neighbouring bounds, one rule decides for all ports.
    bounds = sorted({edge for rule in concerned for a, b in rule.ports for edge in (a, b + 1)})
    found: list[Grant] = []
    for first, after in pairwise(bounds):
        rule = next((r for r in concerned if any(a <= first <= b for a, b in r.ports)), None)
        if rule is None or rule.action == "deny":
            continue
        last = found[-1] if found else None
        if last is not None and last.rule is rule and last.last == first - 1:
            found[-1] = Grant(last.first, after - 1, rule)
        else:
            found.append(Grant(first, after - 1, rule))
    return tuple(found)


def stream_grants(policy: Policy, source: str, destination: str) -> tuple[Grant, ...]:
    """All ports to which `source` gets streams: it may ask, and the other may answer.

    :return: with the rules by which it may ask.
    """
    heard = grants(policy, source, destination, "listen")
    return tuple(
        Grant(max(asked.first, other.first), min(asked.last, other.last), asked.rule)
        for asked in grants(policy, source, destination, "connect")
        for other in heard
        if max(asked.first, other.first) <= min(asked.last, other.last)
    )


def format_ports(ports: tuple[tuple[int, int], ...]) -> str:
    """Ranges as people write them: "22,8000-8080", or "*"."""
    if ports == ALL_PORTS:
        return "*"
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ports)
