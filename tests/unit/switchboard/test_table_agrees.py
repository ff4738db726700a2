# SPDX-License-Identifier: Apache-2.0
"""The tables of all devices of a topology against somebody else's reading of its file."""

from __future__ import annotations

import random
import tomllib
from typing import Any

import pytest

from innkeeper.model.policy import OPERATIONS, judge
from innkeeper.model.topology import Topology
from innkeeper.model.topology_file import parse_topology
from innkeeper.switchboard.table import PeerRow, peer_rows

MACHINES = ("web", "db", "log", "mail")
SERVICES = {"store": ("db", 7), "mta": ("mail", 25), "clock": ("host", 37), "disk": ("host", 9)}
CIDS = {name: 1024 + place for place, name in enumerate(MACHINES)}
PORTS = 60


def random_file(dice: random.Random) -> str:
    """A topology with rules of every kind."""
    lines = ['name = "net"', *(f"[machines.{name}]" for name in MACHINES)]
    for name, (machine, port) in SERVICES.items():
        lines.append(f"[services.{name}]\nport = {port}")
        lines.append('host = "tcp:127.0.0.1:80"' if machine == "host" else f'machine = "{machine}"')
    for _ in range(dice.randint(1, 14)):
        destination = dice.choice((*MACHINES, "*", "host", *SERVICES))
        lines.append(f'[[policy]]\nfrom = "{dice.choice((*MACHINES, "*", "host"))}"')
        lines.append(f'to = "{destination}"')
        if destination not in SERVICES and dice.random() < 0.8:
            low = dice.randint(0, 40)
            text = dice.choice((f"{low}", f"{low}-{low + 15}", f"{low},{low + 3}-{low + 9}"))
            lines.append(f'port = "{text}"')
        if dice.random() < 0.5:
            chosen = ", ".join(f'"{one}"' for one in dice.sample(OPERATIONS, dice.randint(1, 5)))
            lines.append(f"operations = [{chosen}]")
        if dice.random() < 0.3:
            lines.append('action = "deny"')
    return "\n".join(lines) + "\n"


def holds(text: str, port: int) -> bool:
    """Whether a rule's ports, as they are written, are of this one too."""
    for part in text.split(","):
        ends = part.split("-")
        if int(ends[0]) <= port <= int(ends[-1]):
            return True
    return False


def may(file: dict[str, Any], source: str, destination: str, port: int, operation: str) -> bool:
    """What the file says, read from its text: nothing of the package is used."""
    for rule in file.get("policy", []):
        machine, ports = rule["to"], rule.get("port", f"0-{PORTS}")
        if machine in SERVICES:
            machine, ports = SERVICES[machine][0], str(SERVICES[machine][1])
        if (
            rule["from"] in (source, "*")
            and machine in (destination, "*")
            and operation in rule.get("operations", ["connect", "listen"])
            and holds(ports, port)
        ):
            return bool(rule.get("action", "allow") == "allow")
    return False


def tables(topology: Topology) -> dict[str, dict[int, PeerRow]]:
    """The rows of each machine, by CID."""
    return {
        name: {
            row.cid: row
            for row in peer_rows(
                topology.policy,
                name,
                CIDS,
                link=lambda owner, cid: f"/{owner}/{cid}",
                host_ports=topology.host_services(),
            )
        }
        for name in MACHINES
    }


def inside(ranges: tuple[tuple[int, int], ...], port: int) -> bool:
    return any(first <= port <= last for first, last in ranges)


def passes(rows: dict[str, dict[int, PeerRow]], source: str, destination: str, port: int) -> bool:
    """Whether the two devices let a stream through."""
    if destination == "host":
        row = rows[source].get(2)
        return row is not None and inside(row.connect, port)
    asks, answers = rows[source].get(CIDS[destination]), rows[destination].get(CIDS[source])
    if asks is None or answers is None or not inside(asks.connect, port):
        return False
    # The socket that the one dials is the one on which the other listens.
    return inside(answers.accept, port) and asks.dial == answers.listen != ""


@pytest.mark.parametrize("seed", range(20))
def test_a_thousand_streams_of_a_random_file(seed: int) -> None:
    dice = random.Random(seed)
    text = random_file(dice)
    topology, file = parse_topology(text, source="net.toml"), tomllib.loads(text)
    rows = tables(topology)
    for _ in range(1000):
        source = dice.choice(MACHINES)
        destination = dice.choice([one for one in (*MACHINES, "host") if one != source])
        port = dice.choice((dice.randint(0, PORTS), 7, 9, 25, 37))
        expected = all(may(file, source, destination, port, half) for half in ("connect", "listen"))
        if destination == "host":
            # The host has ports for guests where it has services.
            expected = expected and ("host", port) in SERVICES.values()
        assert passes(rows, source, destination, port) == expected, (source, destination, port)


@pytest.mark.parametrize("seed", range(20))
def test_every_operation_of_a_random_file(seed: int) -> None:
    dice = random.Random(seed)
    text = random_file(dice)
    policy, file = parse_topology(text, source="net.toml").policy, tomllib.loads(text)
    for _ in range(500):
        source, destination = dice.choices((*MACHINES, "host"), k=2)
        port, operation = dice.randint(0, PORTS), dice.choice(OPERATIONS)
        expected = may(file, source, destination, port, operation)
        assert judge(policy, source, destination, port, operation).allowed == expected
