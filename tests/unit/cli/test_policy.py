# SPDX-License-Identifier: Apache-2.0
"""`inn policy explain` about rings says what the boards do."""

from __future__ import annotations

import pytest

from innkeeper.cli.policy import judge_wish
from innkeeper.model.policy import Operation
from innkeeper.model.topology_file import parse_topology

TEXT = """\
name = "bells"
[machines.ringer]
[machines.tower]
[[policy]]
from = "ringer"
to = "host"
port = 7
operations = ["send"]
action = "deny"
[[policy]]
from = "*"
to = "tower"
operations = ["register-any"]
"""


@pytest.mark.parametrize(
    ("source", "destination", "port", "operation", "allowed", "why"),
    [
        ("ringer", "host", 6, "send", True, "no rule denies it"),
        ("host", "ringer", 6, "send", True, "no rule denies it"),
        ("ringer", "host", 7, "send", False, "rule 1, bells.toml line 4"),
        ("ringer", "tower", 7, "send", False, "no rule of bells.toml matches"),
        ("ringer", "tower", 7, "register-any", False, "mac_permissive = true"),
    ],
)
def test_wishes_about_rings(
    source: str, destination: str, port: int, operation: Operation, *, allowed: bool, why: str
) -> None:
    topology = parse_topology(TEXT, source="bells.toml")
    judgement, reason = judge_wish(topology, source, destination, port, operation)
    assert judgement.allowed == allowed
    assert why in reason


def test_wildcard_rings_need_the_switch_and_a_rule() -> None:
    topology = parse_topology(TEXT + "[rings]\nmac_permissive = true\n", source="bells.toml")
    tower, _ = judge_wish(topology, "ringer", "tower", 7, "register-any")
    ringer, _ = judge_wish(topology, "tower", "ringer", 7, "register-any")
    assert (tower.allowed, ringer.allowed) == (True, False)
