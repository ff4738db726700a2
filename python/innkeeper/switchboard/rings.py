# SPDX-License-Identifier: Apache-2.0
"""A policy as the rules that one guest's ring board enforces. Pure.

In a rule for rings, `from` sends and `to` has the ring, whose port it is, whichever
of the two does something: `register-single` lets `to` make a ring for `from`,
`send` and `query` let `from` use it, `notify` lets `from` be told of room there.
`register-any` lets `to` make rings for everybody, and has `from = "*"`.

Between a guest and programs of the host everything is allowed that no rule denies:
whoever runs a program there owns the guest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from innkeeper.model.policy import ANYBODY, HOST, Grant, Operation, Policy, grants, open_to_host

Range = tuple[int, int]
# Ids from here on name no domain (`DOMID_FIRST_RESERVED`).
FIRST_RESERVED_ID = 0x7FF0
HOST_ID = 0


Flow = tuple[list[Range], list[tuple[int, int, int]], list[Range], list[Range]]


class RingFlow(msgspec.Struct, frozen=True, kw_only=True):
    """What may flow from one domain to another's rings; all ports are the ring's.

    :ivar register: where the owner may have a ring for the sender alone.
    :ivar send: where the sender may send; the third is its share of a wildcard ring, percent.
    :ivar query: where it may ask for room, and wait.
    :ivar notify: where it may be told of room.
    """

    register: tuple[Range, ...] = ()
    send: tuple[tuple[int, int, int], ...] = ()
    query: tuple[Range, ...] = ()
    notify: tuple[Range, ...] = ()

    def native(self) -> Flow:
        """As the native board takes it."""
        return list(self.register), list(self.send), list(self.query), list(self.notify)


class RingRow(msgspec.Struct, frozen=True, kw_only=True):
    """What is allowed between a guest and one other domain.

    :ivar domain: the other's id.
    :ivar dial: the socket on which its board listens for this guest; "" for the host.
    :ivar listen: the socket on which its board connects; "" for the host.
    :ivar outward: to the other's rings.
    :ivar inward: to this guest's rings.
    """

    domain: int
    dial: str
    listen: str
    outward: RingFlow
    inward: RingFlow


class RingRules(msgspec.Struct, frozen=True, kw_only=True):
    """All that one board is told.

    :ivar guest_any: where the guest may have wildcard rings.
    :ivar host_any: where the host's programs may.
    :ivar mac_permissive: whether there are wildcard rings at all.
    """

    rows: tuple[RingRow, ...]
    guest_any: tuple[Range, ...]
    host_any: tuple[Range, ...]
    mac_permissive: bool

    def native(self) -> tuple[list[tuple[int, str, Flow, Flow]], list[Range], list[Range], bool]:
        """As the native board takes them."""
        rows = [(o.domain, o.dial, o.outward.native(), o.inward.native()) for o in self.rows]
        return rows, list(self.guest_any), list(self.host_any), self.mac_permissive


def ring_rules(
    policy: Policy,
    own: str,
    cids: Mapping[str, int],
    *,
    link: Callable[[str, int], str],
    mac_permissive: bool = False,
) -> RingRules:
    """The rules of the machine `own`.

    :param cids: CID of every machine of the topology; those that can be no domain
        take no part.
    :param link: path of the socket of a machine for the board of the guest with a CID.
    """
    rows = [_host_row(policy, own)]
    for name, cid in cids.items():
        if name == own or cid >= FIRST_RESERVED_ID:
            continue
        outward, inward = _flow(policy, own, name), _flow(policy, name, own)
        if outward == inward == RingFlow():
            continue
        # One dials the other to find out whether it lives, too.
        rows.append(
            RingRow(
                domain=cid,
                dial=link(name, cids[own]),
                listen=link(own, cid),
                outward=outward,
                inward=inward,
            )
        )
    return RingRules(
        rows=tuple(rows),
        guest_any=_ranges(grants(policy, ANYBODY, own, "register-any")),
        host_any=_ranges(grants(open_to_host(policy), ANYBODY, HOST, "register-any")),
        mac_permissive=mac_permissive,
    )


def _host_row(policy: Policy, own: str) -> RingRow:
    policy = open_to_host(policy)
    return RingRow(
        domain=HOST_ID,
        dial="",
        listen="",
        outward=_flow(policy, own, HOST),
        inward=_flow(policy, HOST, own),
    )


def _flow(policy: Policy, sender: str, owner: str) -> RingFlow:
    def ranges(operation: Operation) -> tuple[Range, ...]:
        return _ranges(grants(policy, sender, owner, operation))

    send = grants(policy, sender, owner, "send")
    return RingFlow(
        register=ranges("register-single"),
        send=tuple((one.first, one.last, one.rule.ring_quota) for one in send),
        query=ranges("query"),
        notify=ranges("notify"),
    )


def _ranges(found: tuple[Grant, ...]) -> tuple[Range, ...]:
    return tuple((grant.first, grant.last) for grant in found)
