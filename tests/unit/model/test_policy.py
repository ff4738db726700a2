# SPDX-License-Identifier: Apache-2.0
"""Policies: the first rule that matches decides, however it is asked."""

from __future__ import annotations

import random

import pytest

from innkeeper.model.policy import (
    OPERATIONS,
    PORT_MAXIMUM,
    Policy,
    Rule,
    format_ports,
    grants,
    judge,
    judge_stream,
    stream_grants,
)

NAMES = ("web", "db", "log", "mail")


def rule(number: int, source: str, destination: str, **values: object) -> Rule:
    return Rule(number=number, line=number, source=source, destination=destination, **values)  # type: ignore[arg-type]


def test_without_a_rule_the_answer_is_no() -> None:
    assert not judge(Policy(), "web", "db", 22).allowed
    assert grants(Policy(), "web", "db") == ()


def test_the_first_rule_that_matches_decides() -> None:
    policy = Policy(
        (
            rule(1, "web", "db", ports=((22, 22),), action="deny"),
            rule(2, "*", "db", ports=((20, 30),)),
            rule(3, "web", "*"),
        )
    )
    assert judge(policy, "web", "db", 22).rule == policy.rules[0]
    assert not judge(policy, "web", "db", 22).allowed
    assert judge(policy, "log", "db", 22).allowed
    assert judge(policy, "web", "db", 23).rule == policy.rules[1]
    assert judge(policy, "web", "db", 31).rule == policy.rules[2]
    assert not judge(policy, "db", "web", 22).allowed
    found = [(one.first, one.last, one.rule.number) for one in grants(policy, "web", "db")]
    assert found == [(0, 19, 3), (20, 21, 2), (23, 30, 2), (31, PORT_MAXIMUM, 3)]


def test_a_rule_speaks_of_its_operations_alone() -> None:
    policy = Policy((rule(1, "web", "db", operations=("send",)),))
    assert judge(policy, "web", "db", 1, "send").allowed
    for operation in OPERATIONS:
        assert judge(policy, "web", "db", 1, operation).allowed == (operation == "send")


def naive(policy: Policy, source: str, destination: str, port: int, operation: str) -> bool:
    """The same, written by somebody else: no helper of the module's."""
    for one in policy.rules:
        if operation not in one.operations:
            continue
        if one.source not in {source, "*"} or one.destination not in {destination, "*"}:
            continue
        for low, high in one.ports:
            if port in range(low, high + 1):
                return one.action == "allow"
    return False


@pytest.mark.parametrize("seed", range(10))
def test_ten_thousand_triples_agree_with_an_independent_evaluator(seed: int) -> None:
    dice = random.Random(seed)

    def ports() -> tuple[tuple[int, int], ...]:
        found = []
        for _ in range(dice.randint(1, 3)):
            low = dice.randint(0, 40)
            found.append((low, low + dice.choice((0, 0, 5, 20))))
        return tuple(found)

    policy = Policy(
        tuple(
            rule(
                number,
                dice.choice((*NAMES, "*")),
                dice.choice((*NAMES, "*")),
                ports=ports(),
                action=dice.choice(("allow", "allow", "deny")),
                operations=tuple(dice.sample(OPERATIONS, dice.randint(1, 3))),
            )
            for number in range(1, 13)
        )
    )
    for _ in range(1000):
        source, destination = dice.choice(NAMES), dice.choice(NAMES)
        port, operation = dice.randint(0, 70), dice.choice(OPERATIONS)
        expected = naive(policy, source, destination, port, operation)
        assert judge(policy, source, destination, port, operation).allowed == expected
        # The table that the device gets says the same.
        allowed = any(
            one.first <= port <= one.last for one in grants(policy, source, destination, operation)
        )
        assert allowed == expected
        # A stream needs both halves.
        both = all(naive(policy, source, destination, port, half) for half in ("connect", "listen"))
        assert judge_stream(policy, source, destination, port).allowed == both
        assert any(one.holds(port) for one in stream_grants(policy, source, destination)) == both


def test_of_a_stream_the_half_that_is_refused_is_named() -> None:
    asks = rule(1, "web", "host", operations=("connect",))
    answers = rule(2, "web", "host", operations=("listen",), ports=((1, 5),), action="deny")
    policy = Policy((asks, answers))
    assert judge_stream(policy, "web", "host", 5).rule == answers
    assert judge_stream(policy, "web", "host", 6).rule is None
    assert judge_stream(policy, "db", "host", 5).rule is None


def test_ports_as_people_write_them() -> None:
    assert format_ports(((0, PORT_MAXIMUM),)) == "*"
    assert format_ports(((22, 22), (8000, 8080))) == "22,8000-8080"
