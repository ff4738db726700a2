# SPDX-License-Identifier: Apache-2.0
"""Two guests of one topology: streams between them, by rules that may change."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import INN, Background, Inn

TOPOLOGY = """\
name = "pair"

[machines.left]
memory = "128M"

[machines.right]
memory = "128M"
after = ["left"]

[services.echo]
machine = "right"
port = 7

[[policy]]
from = "left"
to = "echo"
log = true

[[test]]
from = "left"
to = "right"
port = 7
expect = "allow"

[[test]]
from = "right"
to = "left"
port = 7
expect = "deny"
"""
RULE = '[[policy]]\nfrom = "left"\nto = "echo"\nlog = true\n'


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("topology") / "pair.toml"
    path.write_text(TOPOLOGY)
    return path


@pytest.fixture(scope="module")
def pair(file: Path) -> Iterator[dict[str, int]]:
    """Both guests run; their CIDs by name."""
    up = subprocess.run([*INN, "up", str(file)], capture_output=True, check=False)
    assert up.returncode == 0, up.stderr.decode()
    listed = subprocess.run([*INN, "ps", "--format", "json"], capture_output=True, check=True)
    (topology,) = json.loads(listed.stdout)["topologies"]
    yield {machine["name"]: machine["cid"] for machine in topology["machines"]}
    down = subprocess.run([*INN, "down", "pair"], capture_output=True, check=False)
    assert down.returncode == 0, down.stderr.decode()


def guest(name: str, *command: str) -> tuple[str, ...]:
    return ("exec", name, "--", *command)


def audit(inn: Inn) -> list[dict[str, object]]:
    done = inn("policy", "watch", "--no-follow", "pair")
    assert done.code == 0, done.error
    return [json.loads(line) for line in done.stdout.splitlines()]


def listen(background: Background, name: str, port: int) -> subprocess.Popen[bytes]:
    """A program in a guest that waits for one stream, and is there when this returns."""
    process = background(*guest(name, "inn-agent", "vsock-listen", str(port)))
    assert process.stderr is not None
    assert process.stderr.readline() == b"listening\n"
    return process


def test_a_stream_carries_every_byte_both_ways(
    inn: Inn, pair: dict[str, int], background: Background
) -> None:
    sent = hashlib.sha256(b"x").digest() * (1 << 18)
    echo = background(
        *guest("right", "sh", "-c", "mkfifo /tmp/f; inn-agent vsock-listen 7 </tmp/f | cat >/tmp/f")
    )
    assert echo.stderr is not None
    assert echo.stderr.readline() == b"listening\n"
    done = inn(*guest("left", "inn-agent", "vsock-connect", str(pair["right"]), "7"), stdin=sent)
    assert done.code == 0, done.error
    # The end of ours came through, as did the end of the echo's.
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(sent).digest()
    assert echo.wait(30) == 0
    (allowed,) = [one for one in audit(inn) if one["by"] == "left" and one["verdict"] == "allowed"]
    assert allowed["source"] == "left"
    assert allowed["destination"] == "right"
    assert (allowed["port"], allowed["rule"], allowed["line"]) == (7, 1, 14)


def test_what_no_rule_allows_is_refused_as_if_nobody_listened(
    inn: Inn, pair: dict[str, int], background: Background
) -> None:
    listen(background, "right", 8)
    refusals = [
        inn(*guest(name, "inn-agent", "vsock-connect", str(cid), str(port)))
        for name, cid, port in (
            ("left", pair["right"], 8),  # somebody listens, no rule allows it
            ("left", pair["right"], 7),  # a rule allows it, nobody listens
            ("left", 4000, 7),  # nobody has this CID
            ("right", pair["left"], 7),  # only the other direction is allowed
            ("left", pair["right"], 9001),  # the agent's own
        )
    ]
    assert {done.code for done in refusals} == {1}
    assert {done.stderr for done in refusals} == {
        b"vsock-connect: Connection reset by peer (os error 104)\n"
    }
    denied = [one for one in audit(inn) if one["verdict"] == "denied"]
    assert [(one["source"], one["destination"], one["port"]) for one in denied] == [
        ("left", "right", 8),
        ("left", "", 7),
        ("right", "left", 7),
        ("left", "right", 9001),
    ]


def test_a_new_policy_cuts_what_it_does_not_allow(
    inn: Inn, pair: dict[str, int], background: Background, file: Path
) -> None:
    # Right says nothing and does not end, so that the stream stays open.
    far = background(
        *guest(
            "right",
            "sh",
            "-c",
            "mkfifo /tmp/h; sleep 999 >/tmp/h & inn-agent vsock-listen 7 </tmp/h",
        )
    )
    assert far.stderr is not None
    assert far.stderr.readline() == b"listening\n"
    near = background(
        *guest("left", "sh", "-c", f"echo open | inn-agent vsock-connect {pair['right']} 7")
    )
    assert far.stdout is not None
    assert far.stdout.readline() == b"open\n"

    other = file.with_name("other.toml")
    other.write_text(TOPOLOGY.replace(RULE, ""))
    try:
        done = inn("policy", "apply", str(other))
        assert done.code == 0, done.error
        # It is in force, not on its way.
        assert inn("policy", "explain", "left", "echo").code == 1
        near.wait(30)
        assert [one["by"] for one in audit(inn) if one["verdict"] == "cut"]
    finally:
        assert inn("policy", "apply", str(file)).code == 0
    assert inn("policy", "explain", "left", "echo").code == 0


def test_a_policy_that_is_wrong_changes_nothing(inn: Inn, pair: dict[str, int], file: Path) -> None:
    assert pair
    wrong = file.with_name("wrong.toml")
    for text, said in (
        (TOPOLOGY.replace("to = ", "two = ", 1), "line 16, column 1"),
        (TOPOLOGY.replace("left", "lift"), "the topology 'pair' that is up has other machines"),
    ):
        wrong.write_text(text)
        done = inn("policy", "apply", str(wrong))
        assert done.code == 2
        assert said in done.error
        assert "Traceback" not in done.error
    assert inn("policy", "explain", "left", "right", "7").code == 0


def test_what_is_up_is_shown_and_explained(inn: Inn, pair: dict[str, int], file: Path) -> None:
    assert pair
    shown = inn("ps").stdout.decode()
    assert re.search(r"pair\n└─ left  running\n   └─ right  running\n", shown), shown
    done = inn("policy", "explain", "left", "echo")
    assert done.code == 0
    assert b"left may connect to port 7 of right" in done.stdout
    assert f"rule 1, {file} line 14: allow left -> right port 7".encode() in done.stdout
    done = inn("policy", "explain", "right", "left", "7")
    assert done.code == 1
    assert b"no rule of" in done.stdout
    done = inn("policy", "test", str(file))
    assert (done.code, done.stdout.count(b"ok  ")) == (0, 2)
    planned = inn("plan", str(file)).stdout.decode()
    assert f"CID {pair['left']}, left.inn 240.0.4." in planned
    assert re.search(r"left +right +7 +rule 1, line 14", planned), planned


def test_claims_of_other_topologies_are_refused(
    inn: Inn, pair: dict[str, int], tmp_path: Path
) -> None:
    assert pair
    other = tmp_path / "other.toml"
    for text, said in (
        ('name = "other"\n[machines.left]\n', "'left' belongs to the topology 'pair'"),
        (
            f'name = "other"\n[machines.new]\ncid = {pair["left"]}\n',
            f"have the same CID {pair['left']}",
        ),
        # Another file of the same name, which would remove a machine that runs.
        ('name = "pair"\n[machines.left]\n', "a topology 'pair' is up from another file"),
    ):
        other.write_text(text)
        done = inn("up", str(other))
        assert done.code == 2
        assert said in done.error
    assert inn("inspect", "new").code == 2
    assert inn("ps").stdout.count(b"running") == 2
