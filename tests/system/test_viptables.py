# SPDX-License-Identifier: Apache-2.0
"""`inn viptables`: what becomes of connections of guests that run, rule by rule."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import INN, Background, Inn, Result

FILE = """\
name = "walls"

[machines.inner]
memory = "128M"

[machines.outer]
memory = "128M"

[services.echo]
machine = "inner"
port = 7
"""
CONNECTED = b"connected\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("walls") / "walls.toml"
    path.write_text(FILE)
    up = subprocess.run([*INN, "up", str(path)], capture_output=True, check=False)
    assert up.returncode == 0, up.stderr.decode()
    yield path
    down = subprocess.run([*INN, "down", "walls"], capture_output=True, check=False)
    assert down.returncode == 0, down.stderr.decode()


def listed(inn: Inn) -> list[dict[str, object]]:
    done = inn("viptables", "-L", "--format", "json")
    assert done.code == 0, done.error
    rules = json.loads(done.stdout)["rules"]
    assert isinstance(rules, list)
    return rules


def test_a_rule_changes_what_becomes_of_a_connect(
    inn: Inn, file: Path, background: Background
) -> None:
    cids = {
        one["name"]: str(one["cid"])
        for one in json.loads(inn("ps", "--format", "json").stdout)["topologies"][0]["machines"]
    }
    # Whoever is there first hangs up, so each connect needs a listener anew.
    serve = "while inn-agent vsock-listen 7 </dev/null >/dev/null; do :; done"
    server = background("exec", "inner", "--", "sh", "-c", serve)
    assert server.stderr is not None

    def connect() -> Result:
        assert server.stderr is not None
        # One line is said by a listener, and one when it has got somebody.
        while server.stderr.readline() != b"listening\n":
            pass
        return inn("exec", "outer", "--", "inn-agent", "vsock-connect", cids["inner"], "7")

    refused = ("exec", "outer", "--", "inn-agent", "vsock-connect", cids["inner"], "7")
    assert inn(*refused).code == 1
    assert inn("policy", "explain", "outer", "echo").code == 1

    added = inn("viptables", "-A", "-d", "outer", "-e", "echo", "-j", "ACCEPT")
    assert added.code == 0, added.error
    done = connect()
    assert (done.code, done.stderr) == (0, CONNECTED)
    told = inn("policy", "explain", "outer", "echo")
    assert told.code == 0
    assert b"rule 1, added by viptables: allow outer -> inner port 7" in told.stdout

    # A client may be named by its CID, as by a domid.
    assert inn("viptables", "-I", "1", "-d", cids["outer"], "-j", "REJECT").code == 0
    assert [(one["target"], one["added"]) for one in listed(inn)] == [
        ("REJECT", True),
        ("ACCEPT", True),
    ]
    assert inn(*refused).stderr == b"vsock-connect: Connection reset by peer (os error 104)\n"
    assert inn("viptables", "-D1").code == 0
    assert connect().code == 0
    saved = inn("viptables", "--save").stdout.decode()
    assert inn("viptables", "-D", "-d", "outer", "-e", "inner", "-q", "7").code == 0
    assert inn(*refused).code == 1
    assert listed(inn) == []

    # What was printed can be put into the file, which nobody else has touched.
    assert file.read_text() == FILE
    other = file.with_name("other.toml")
    other.write_text(FILE + saved)
    assert inn("policy", "apply", str(other)).code == 0
    assert [(one["target"], one["added"]) for one in listed(inn)] == [("ACCEPT", False)]
    assert inn("viptables", "-F").code == 0
    assert inn("policy", "explain", "outer", "echo").code == 1
    assert inn("policy", "apply", str(file)).code == 0


def test_a_rule_that_goes_takes_its_streams_along(
    inn: Inn, file: Path, background: Background
) -> None:
    assert file.exists()
    cid = json.loads(inn("inspect", "inner", "--format", "json").stdout)["machine"]["cid"]
    assert inn("viptables", "-A", "-d", "outer", "-e", "inner", "-q", "9", "-j", "ACCEPT").code == 0
    silent = "mkfifo /tmp/h; sleep 999 >/tmp/h & inn-agent vsock-listen 9 </tmp/h"
    far = background("exec", "inner", "--", "sh", "-c", silent)
    assert far.stderr is not None
    assert far.stderr.readline() == b"listening\n"
    near = background(
        "exec", "outer", "--", "sh", "-c", f"echo open | inn-agent vsock-connect {cid} 9"
    )
    assert far.stdout is not None
    assert far.stdout.readline() == b"open\n"
    assert inn("viptables", "-F").code == 0
    # A guest's kernel shows a reset of a stream that stands as its end.
    near.wait(60)
    told = inn("policy", "watch", "--no-follow", "walls").stdout.splitlines()
    assert [one for one in map(json.loads, told) if one["verdict"] == "cut"]


def test_wrong_use_changes_nothing(inn: Inn, file: Path) -> None:
    assert file.exists()
    before = listed(inn)
    for arguments, said in (
        ((), "which command?"),
        (("-A", "-L"), "one command at a time"),
        (("-A", "-d", "outer"), "a rule needs -j"),
        (("-A", "-d", "oter", "-j", "ACCEPT"), "outer"),
        (("-A", "-p", "7", "-j", "ACCEPT"), "the client's port"),
        (("-I", "9", "-j", "ACCEPT"), "there is no place 9"),
        (("-D", "9"), "there is no rule 9"),
        (("-D", "-d", "outer", "-q", "99"), "no rule is outer -> * port 99"),
        (("-L", "--topology", "wells"), "walls"),
    ):
        done = inn("viptables", *arguments)
        assert done.code == 2, arguments
        assert said in done.error
        assert "Traceback" not in done.error
    assert listed(inn) == before
