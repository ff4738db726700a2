# SPDX-License-Identifier: Apache-2.0
"""Policies as the tables that devices enforce."""

from __future__ import annotations

from innkeeper.model.policy import Policy, Rule
from innkeeper.switchboard.table import PeerRow, peer_rows

CIDS = {"web": 1024, "db": 1025, "log": 1026}


def link(owner: str, cid: int) -> str:
    return f"/run/{owner}/from_{cid}.sock"


def test_each_side_has_its_row() -> None:
    rule = Rule(number=1, line=1, source="web", destination="db", ports=((22, 22),), quota=7)
    policy = Policy((rule,))
    assert peer_rows(policy, "web", CIDS, link=link) == (
        PeerRow(
            name="db",
            cid=1025,
            dial="/run/db/from_1024.sock",
            listen="",
            connect=((22, 22),),
            accept=(),
            max_streams=7,
        ),
    )
    assert peer_rows(policy, "db", CIDS, link=link) == (
        PeerRow(
            name="web",
            cid=1024,
            dial="",
            listen="/run/db/from_1024.sock",
            connect=(),
            accept=((22, 22),),
            max_streams=7,
        ),
    )
    assert peer_rows(policy, "log", CIDS, link=link) == ()


def test_one_half_of_a_permission_opens_one_side() -> None:
    rule = Rule(number=1, line=1, source="*", destination="*", operations=("connect",))
    for row in peer_rows(Policy((rule,)), "db", CIDS, link=link):
        assert row.connect
        assert not row.accept
        assert not row.listen


def test_the_host_is_a_row_for_its_services_alone() -> None:
    rules = (
        Rule(number=1, line=1, source="web", destination="host", ports=((80, 90),), quota=3),
        Rule(number=2, line=2, source="*", destination="*", operations=("connect",)),
    )
    (row,) = [
        row
        for row in peer_rows(Policy(rules), "web", CIDS, link=link, host_ports=(90, 5432))
        if row.cid == 2
    ]
    # For port 5432 the host may be asked and may not answer.
    assert (row.name, row.connect, row.accept, row.dial, row.listen) == (
        "host",
        ((90, 90),),
        (),
        "",
        "",
    )
    assert row.max_streams == 3
    for own, ports in (("web", (5432,)), ("web", ()), ("db", (90,))):
        rows = peer_rows(Policy(rules), own, CIDS, link=link, host_ports=ports)
        assert all(row.cid != 2 for row in rows)
