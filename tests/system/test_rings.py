# SPDX-License-Identifier: Apache-2.0
"""Two guests of one topology and a program of the host: messages over rings, by rules."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import INN, Background, Inn

from innkeeper.registry.layout import host_layout
from innkeeper.rings import Rings

TOPOLOGY = """\
name = "bells"

[machines.ringer]
memory = "128M"

[machines.tower]
memory = "128M"
cid = 4242

[rings]
mac_permissive = true

[[policy]]
from = "ringer"
to = "tower"
port = "80-81"
operations = ["register-single", "send", "query", "notify"]
log = true

[[policy]]
from = "*"
to = "tower"
port = 90
operations = ["register-any"]

[[policy]]
from = "ringer"
to = "host"
port = 7
operations = ["send"]
action = "deny"
"""
ALLOWED = "80-81"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("topology") / "bells.toml"
    path.write_text(TOPOLOGY)
    return path


@pytest.fixture(scope="module")
def bells(file: Path) -> Iterator[dict[str, int]]:
    """Both guests run; their CIDs by name."""
    up = subprocess.run([*INN, "up", str(file)], capture_output=True, check=False)
    assert up.returncode == 0, up.stderr.decode()
    listed = subprocess.run([*INN, "ps", "--format", "json"], capture_output=True, check=True)
    (topology,) = json.loads(listed.stdout)["topologies"]
    yield {machine["name"]: machine["cid"] for machine in topology["machines"]}
    down = subprocess.run([*INN, "down", "bells"], capture_output=True, check=False)
    assert down.returncode == 0, down.stderr.decode()


def rings(name: str, *command: str) -> tuple[str, ...]:
    return ("exec", name, "--", "inn-guest", "rings", *command)


def receive(background: Background, name: str, *options: str) -> subprocess.Popen[bytes]:
    """A program in a guest that takes messages, and has its ring when this returns."""
    process = background(*rings(name, "receive", *options))
    assert process.stderr is not None
    assert b" takes messages of " in process.stderr.readline()
    return process


def audit(inn: Inn) -> list[dict[str, object]]:
    done = inn("policy", "watch", "--no-follow", "bells")
    assert done.code == 0, done.error
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_message_says_who_sent_it(
    inn: Inn, bells: dict[str, int], background: Background
) -> None:
    receiver = receive(background, "tower", "--from", "ringer", "--count", "1", "80")
    done = inn(*rings("ringer", "send", "--port", "5", "tower:80", "ding"))
    assert done.code == 0, done.error
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == f"{bells['ringer']}:5 type 0: ding\n".encode()
    assert receiver.wait(30) == 0
    told = [one for one in audit(inn) if one["operation"] == "send"]
    assert {one["by"] for one in told} == {"ringer", "tower"}
    for one in told:
        assert (one["verdict"], one["source"], one["destination"]) == ("allowed", "ringer", "tower")
        assert (one["port"], one["from_port"], one["rule"]) == (80, 5, 1)


def test_what_no_rule_allows_looks_absent(
    inn: Inn, bells: dict[str, int], background: Background
) -> None:
    assert bells
    # A ring for everybody: and yet nobody may send there.
    receive(background, "tower", "90")
    for sender, to, error in (
        ("ringer", "tower:90", "refused"),  # there is a ring, no rule to send
        ("ringer", "tower:81", "refused"),  # a rule to send, and no ring
        ("tower", "ringer:80", "No such process"),  # no rule in this direction
        ("tower", "4000:80", "No such process"),  # nobody has this CID
    ):
        done = inn(*rings(sender, "send", to, "x"))
        assert done.code == 1
        assert error in done.error, (to, done.error)
    done = inn(*rings("tower", "receive", "91"))
    assert (done.code, "not permitted" in done.error) == (1, True), done.error
    denied = {
        (one["source"], one["destination"], one["port"], one["operation"])
        for one in audit(inn)
        if one["verdict"] == "denied"
    }
    assert denied >= {
        ("ringer", "tower", 90, "send"),
        ("tower", "ringer", 80, "send"),
        ("tower", "", 80, "send"),
        ("*", "tower", 91, "register-any"),
    }


def test_the_host_and_a_guest_exchange_messages(inn: Inn, bells: dict[str, int]) -> None:
    path = host_layout().guest("ringer").rings
    with Rings.open(path) as host:
        host.register(6, bells["ringer"])
        host.register(7, bells["ringer"])
        done = inn(*rings("ringer", "send", "--port", "9", "host:6", "hello"))
        assert done.code == 0, done.error
        message = next(iter(host.messages(6, bells["ringer"])))
        assert (message.sender, message.data) == ((bells["ringer"], 9), b"hello")
        # A rule of the file denies this port, and no other.
        done = inn(*rings("ringer", "send", "host:7", "hello"))
        assert (done.code, "refused" in done.error) == (1, True), done.error


def test_a_new_policy_takes_rings_away(
    inn: Inn, bells: dict[str, int], background: Background, file: Path
) -> None:
    assert bells
    receiver = receive(background, "tower", "--from", "ringer", "80")
    other = file.with_name("other.toml")
    other.write_text(TOPOLOGY.replace(ALLOWED, "81"))
    try:
        done = inn("policy", "apply", str(other))
        assert done.code == 0, done.error
        assert receiver.wait(30) == 1
        assert receiver.stderr is not None
        assert b"ring 80 is gone" in receiver.stderr.read()
        cut = [one for one in audit(inn) if one["verdict"] == "cut"]
        assert [(one["source"], one["destination"], one["port"]) for one in cut] == [
            ("ringer", "tower", 80)
        ]
    finally:
        assert inn("policy", "apply", str(file)).code == 0


def test_a_guest_that_stops_is_gone_for_those_who_send(
    inn: Inn, bells: dict[str, int], background: Background
) -> None:
    assert bells
    receive(background, "tower", "--from", "ringer", "--quiet", "81")
    # More than is sent while the other stops.
    sender = background(*rings("ringer", "bench", "--count", "1000000000", "tower:81"))
    done = inn(*rings("ringer", "query", "tower:81"))
    assert done.code == 0, done.error
    assert inn("stop", "tower").code == 0
    assert sender.wait(60) == 1
    assert sender.stderr is not None
    assert re.search(rb"No such process|is gone|refused", sender.stderr.read())
