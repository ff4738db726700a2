# SPDX-License-Identifier: Apache-2.0
"""Policies as the rules that ring boards enforce."""

from __future__ import annotations

import pytest

from innkeeper.model.policy import (
    ALL_PORTS,
    RINGS,
    Action,
    Operation,
    Policy,
    Rule,
    judge_ring,
)
from innkeeper.switchboard.rings import RingFlow, RingRow, RingRules, ring_rules

CIDS = {"web": 1024, "db": 1025, "log": 0x7FF0}
OPEN = RingFlow(register=ALL_PORTS, send=((*ALL_PORTS[0], 50),), query=ALL_PORTS, notify=ALL_PORTS)
HOST_ROW = RingRow(domain=0, dial="", listen="", outward=OPEN, inward=OPEN)


def link(owner: str, cid: int) -> str:
    return f"/run/{owner}/rings_from_{cid}.sock"


def rule(
    source: str,
    destination: str,
    *operations: Operation,
    port: int = 0,
    action: Action = "allow",
    ring_quota: int = 50,
) -> Rule:
    ports = ((port, port),) if port else ALL_PORTS
    return Rule(
        number=1,
        line=1,
        source=source,
        destination=destination,
        ports=ports,
        operations=operations,
        action=action,
        ring_quota=ring_quota,
    )


def rules(own: str, *found: Rule, mac_permissive: bool = False) -> RingRules:
    return ring_rules(Policy(found), own, CIDS, link=link, mac_permissive=mac_permissive)


def test_without_rules_the_host_is_everything() -> None:
    want = RingRules(rows=(HOST_ROW,), guest_any=(), host_any=ALL_PORTS, mac_permissive=False)
    assert rules("web") == want
    # That is what its connect and listen say, too: they are of streams.
    assert rules("web", rule("*", "*", "connect", "listen")) == want


def test_each_side_has_the_others_flow() -> None:
    found = rule("web", "db", "send", "register-single", port=7, ring_quota=20)
    flow = RingFlow(register=((7, 7),), send=((7, 7, 20),))
    host, row = rules("web", found).rows
    assert host == HOST_ROW
    assert row == RingRow(
        domain=1025,
        dial="/run/db/rings_from_1024.sock",
        listen="/run/web/rings_from_1025.sock",
        outward=flow,
        inward=RingFlow(),
    )
    _, row = rules("db", found).rows
    assert (row.domain, row.outward, row.inward) == (1024, RingFlow(), flow)
    assert (row.dial, row.listen) == (
        "/run/web/rings_from_1025.sock",
        "/run/db/rings_from_1024.sock",
    )


def test_a_guest_whose_cid_is_no_domain_takes_no_part() -> None:
    assert rules("web", rule("*", "log", *RINGS)).rows == (HOST_ROW,)


def test_the_host_can_be_denied() -> None:
    (row,) = rules("web", rule("web", "host", "send", port=9, action="deny")).rows
    assert row.outward.send == ((0, 8, 50), (10, ALL_PORTS[0][1], 50))
    assert row.inward == OPEN


def test_wildcard_rings_are_for_everybody() -> None:
    open_to_all = rules("web", rule("*", "web", "register-any", port=5), mac_permissive=True)
    assert (open_to_all.guest_any, open_to_all.mac_permissive) == (((5, 5),), True)
    # A rule for one sender makes no ring for all.
    assert rules("web", rule("db", "web", "register-any")).guest_any == ()
    assert rules("web", rule("*", "host", "register-any", action="deny")).host_any == ()


@pytest.mark.parametrize(
    ("source", "destination", "allowed", "number"),
    [
        ("web", "host", False, 1),
        ("host", "web", True, None),
        ("web", "db", False, None),
        ("*", "host", True, None),
    ],
)
def test_judgements_are_the_boards(
    source: str, destination: str, allowed: bool, number: int | None
) -> None:
    policy = Policy((rule("web", "host", "send", action="deny"),))
    found = judge_ring(policy, source, destination, 5, "send")
    assert found.allowed == allowed
    assert (found.rule.number if found.rule else None) == number


def test_native_rules_are_tuples_and_lists() -> None:
    rows, guest_any, host_any, mac_permissive = rules("web").native()
    flow = ([*ALL_PORTS], [(*ALL_PORTS[0], 50)], [*ALL_PORTS], [*ALL_PORTS])
    assert rows == [(0, "", flow, flow)]
    assert (guest_any, host_any, mac_permissive) == ([], [*ALL_PORTS], False)
