# SPDX-License-Identifier: Apache-2.0
"""Rules that are added to a topology's and taken away, by value."""

from __future__ import annotations

import pytest

from innkeeper.errors import InnError, UsageError
from innkeeper.model.policy import ALL_PORTS, Policy, Rule, judge
from innkeeper.model.topology import Topology
from innkeeper.model.topology_file import parse_topology
from innkeeper.model.viptables import (
    Entry,
    Wish,
    delete,
    entries_of,
    find,
    insert,
    rule_of,
    rule_toml,
    with_entries,
)

TEXT = """\
name = "shop"
[machines.web]
[machines.db]
[services.store]
machine = "db"
port = 5432

[[policy]]
from = "web"
to = "store"

[[policy]]
from = "*"
to = "db"
port = "20-30"
action = "deny"
"""
CIDS = {"web": 1024, "db": 1025}
ACCEPT_22 = Wish(source="web", destination="db", port="22", target="ACCEPT")


@pytest.fixture
def shop() -> Topology:
    return parse_topology(TEXT, source="shop.toml")


def numbers(policy: Policy) -> list[tuple[int, int]]:
    """Number in force and line of each rule."""
    return [(rule.number, rule.line) for rule in policy.rules]


def test_rules_are_numbered_as_they_are_in_force(shop: Topology) -> None:
    entries: tuple[Entry, ...] = entries_of(shop.policy)
    assert with_entries(shop.policy, entries) == shop.policy
    added = rule_of(shop, CIDS, ACCEPT_22)
    assert numbers(with_entries(shop.policy, insert(entries, added, None)))[-1] == (3, 0)
    policy = with_entries(shop.policy, insert(entries, added, 2))
    assert numbers(policy) == [(1, 8), (2, 0), (3, 12)]
    # The new one stands before that of the file which says no.
    assert judge(policy, "web", "db", 22, "send").allowed
    assert judge(policy, "web", "db", 22).rule == policy.rules[1]
    assert not judge(policy, "web", "db", 23).allowed
    assert numbers(with_entries(shop.policy, delete(insert(entries, added, 2), 1))) == [
        (1, 0),
        (2, 12),
    ]
    assert with_entries(shop.policy, ()).rules == ()


def test_a_rule_is_found_by_what_it_says(shop: Topology) -> None:
    def number(**values: str) -> int:
        return find(shop.policy, shop, CIDS, Wish(**values))  # type: ignore[arg-type]

    assert number(source="web", destination="store") == 1
    assert number(source="1024", destination="1025", port="5432", target="ACCEPT") == 1
    assert number(destination="db", port="20-30") == 2
    for wrong in (
        {"source": "web", "destination": "store", "target": "REJECT"},
        {"source": "web", "destination": "store", "operations": ("send",)},
        {"source": "db", "destination": "store"},
        {"destination": "db", "port": "20"},
    ):
        with pytest.raises(UsageError, match="no rule is"):
            number(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": None},
        {"source": "wep"},
        {"source": "4000"},
        {"source": "store"},
        {"destination": "store"},
        {"port": "x"},
        {"port": "9-8"},
        {"port": "-1"},
        {"port": str(2**32)},
    ],
)
def test_what_is_no_rule(shop: Topology, wrong: dict[str, str | None]) -> None:
    values = {"source": "web", "destination": "db", "port": "22", "target": "ACCEPT", **wrong}
    with pytest.raises(UsageError):
        rule_of(shop, CIDS, Wish(**values))  # type: ignore[arg-type]


def test_the_host_by_name_and_number(shop: Topology) -> None:
    for given in ("host", "0", "2"):
        wish = Wish(source="web", destination=given, port="80", target="ACCEPT")
        assert rule_of(shop, CIDS, wish).destination == "host"


def test_places_that_are_not_there(shop: Topology) -> None:
    entries = entries_of(shop.policy)
    rule = rule_of(shop, CIDS, Wish(target="REJECT"))
    assert (rule.source, rule.destination, rule.ports) == ("*", "*", ALL_PORTS)
    assert insert(entries, rule, 3) == (1, 2, rule)
    for number in (0, -1, 4):
        with pytest.raises(UsageError, match="no place"):
            insert(entries, rule, number)
    for number in (-1, 3):
        with pytest.raises(UsageError, match="no rule"):
            delete(entries, number)
    with pytest.raises(InnError, match="no rule 7 in what is stored"):
        with_entries(shop.policy, (7,))


def test_rules_come_back_from_the_toml_that_they_are_printed_as(shop: Topology) -> None:
    rules: list[Rule] = [
        *shop.policy.rules,
        rule_of(shop, CIDS, ACCEPT_22),
        rule_of(shop, CIDS, Wish(target="REJECT")),
        Rule(number=5, line=1, source="web", destination="*", quota=7, ring_quota=9, log=True),
    ]
    head = TEXT.partition("[[policy]]")[0]
    text = head + "\n".join(rule_toml(rule) for rule in rules)
    read = parse_topology(text, source="x").policy.rules
    assert [(*one.ports, one.source, one.destination, one.operations) for one in read] == [
        (*one.ports, one.source, one.destination, one.operations) for one in rules
    ]
    assert [(one.action, one.quota, one.ring_quota, one.log) for one in read] == [
        (one.action, one.quota, one.ring_quota, one.log) for one in rules
    ]
