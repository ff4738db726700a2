# SPDX-License-Identifier: Apache-2.0
"""`inn events` while machines live, die and vanish."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest
from guests import INN, Inn

Stream = Iterator[tuple[str, str]]


@pytest.fixture
def events() -> Iterator[subprocess.Popen[bytes]]:
    """`inn events` in JSON; ended by pid."""
    process = subprocess.Popen(
        [*INN, "events", "--format", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    yield process
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()


def read(process: subprocess.Popen[bytes], name: str) -> Stream:
    assert process.stdout is not None
    for line in process.stdout:
        value = json.loads(line)
        assert value["version"] == 1
        if value["name"] == name:
            yield value["state"], value["reason"]


def until(stream: Stream, state: str) -> list[str]:
    """The states up to this one."""
    seen = []
    for found, _reason in stream:
        seen.append(found)
        if found == state:
            return seen
    pytest.fail(f"the stream ended after {seen}")


def test_the_life_of_a_machine_as_events(inn: Inn, events: subprocess.Popen[bytes]) -> None:
    stream = read(events, "evbox")
    assert inn("create", "evbox").code == 0
    try:
        assert until(stream, "created") == ["created"]
        assert inn("start", "evbox").code == 0
        assert until(stream, "running")[-2:] == ["starting", "running"]
        assert inn("pause", "evbox").code == 0
        assert until(stream, "paused") == ["paused"]
        assert inn("resume", "evbox").code == 0
        assert until(stream, "running") == ["running"]
        assert inn("stop", "evbox").code == 0
        assert until(stream, "stopped") == ["stopping", "stopped"]
        assert inn("start", "evbox").code == 0
        until(stream, "running")
        record = json.loads(inn("inspect", "evbox", "--format", "json").stdout)["record"]
        os.kill(record["keeper_pid"], signal.SIGKILL)
        assert until(stream, "failed") == ["failed"]
    finally:
        assert inn("rm", "-f", "evbox").code == 0
    assert until(stream, "removed")[-1] == "removed"
    events.send_signal(signal.SIGINT)
    assert events.wait(30) == 130
    assert events.stderr is not None
    assert events.stderr.read() == b""


def test_guests_of_runs_appear_and_vanish(inn: Inn, events: subprocess.Popen[bytes]) -> None:
    stream = read(events, "evrun")
    assert inn("run", "--name", "evrun", "--", "true").code == 0
    seen = until(stream, "removed")
    assert seen[0] == "starting"
    assert "running" in seen


def test_present_states_come_first_and_a_closed_stdout_ends(inn: Inn) -> None:
    assert inn("create", "evone").code == 0
    try:
        process = subprocess.Popen([*INN, "events", "evone"], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline().endswith(b"  evone  created\n")
        process.stdout.close()
        assert process.wait(30) == 141
        assert inn("events", "nobody").code == 2
    finally:
        assert inn("rm", "-f", "evone").code == 0
