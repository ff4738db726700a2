# SPDX-License-Identifier: Apache-2.0
"""`inn top` with a guest that works, one that rests, and one that ends meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from guests import INN, Background, Inn, record
from terminals import Terminal

MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def guests(state_dir: object) -> Iterator[None]:
    """Two machines that run for all tests of this file."""
    for arguments in (
        ["create", "topbusy", "--memory", "256M"],
        ["create", "topidle", "--memory", "256M"],
        ["start", "topbusy", "topidle"],
    ):
        subprocess.run([*INN, *arguments], check=True, capture_output=True)
    yield
    subprocess.run([*INN, "rm", "-f", "topbusy", "topidle"], check=True, capture_output=True)


def told(inn: Inn, *arguments: str) -> dict[str, Any]:
    done = inn("top", "--format", "json", *arguments)
    assert done.code == 0, done.error
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


def test_a_guest_that_works_takes_more_than_one_that_rests(
    inn: Inn, background: Background
) -> None:
    loop = "echo works; while :; do :; done"
    working = background("exec", "topbusy", "--", "sh", "-c", loop)
    assert working.stdout is not None
    assert working.stdout.readline() == b"works\n"
    value = told(inn, "--interval", "2")
    assert value["version"] == 1
    assert value["interval_s"] >= 2
    busy, idle = value["guests"]
    assert (busy["name"], idle["name"]) == ("topbusy", "topidle")
    # On a host that is busy itself a guest gets less than a CPU, so the two are compared.
    assert idle["cpu_percent"] < 0.5 * busy["cpu_percent"]
    assert busy["cpu_percent"] > 20
    for row in (busy, idle):
        known = record(inn, row["name"])
        assert (row["keeper_pid"], row["qemu_pid"]) == (known["keeper_pid"], known["qemu_pid"])
        assert row["state"] == "running"
        assert 20 * MIB < row["memory_bytes"] < 400 * MIB
        assert row["guest_memory_bytes"] == row["configured_memory_bytes"] == 256 * MIB
        assert row["read_bytes_per_s"] >= 0
        assert row["written_bytes_per_s"] >= 0
        assert 0 < row["uptime_s"] < 3600
    working.send_signal(signal.SIGTERM)
    working.wait(30)


def test_one_table_where_stdout_is_no_terminal(inn: Inn) -> None:
    done = inn("top", "--sort", "name", "topidle", "topbusy")
    assert done.code == 0, done.error
    heads, *lines = done.stdout.decode().splitlines()
    assert heads.split() == ["NAME", "STATE", "CPU", "MEMORY", "GUEST", "READ", "WRITTEN", "UPTIME"]
    assert [line.split()[0] for line in lines] == ["topbusy", "topidle"]
    assert "256M/256M" in lines[0]
    assert done.error == ""


def test_names_and_times_that_make_no_sense(inn: Inn) -> None:
    assert inn("top", "topidel").code == 2
    for time in ("nan", "0", "0.01", "99999h", "-1"):
        assert inn("top", "--once", "--interval", time).code == 2, time


def test_a_guest_that_comes_and_ends_between_samples(
    inn: Inn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "linux")
    terminal = Terminal("top", "--interval", "0.2", "--sort", "name")
    try:
        assert b"topends" not in frame(terminal)
        assert inn("create", "topends").code == 0
        assert inn("start", "topends").code == 0
        terminal.expect(b"topends  running")
        os.kill(record(inn, "topends")["keeper_pid"], signal.SIGKILL)
        while b"topends" in (shown := frame(terminal)):
            pass
        assert b"topidle  running" in shown
        assert terminal.process.poll() is None
        done = inn("top", "topends", "topidle")
        assert [line.split()[0] for line in done.stdout.splitlines()] == [b"NAME", b"topidle"]
        assert (done.code, done.stderr) == (0, b"inn: topends does not run\n")
        assert told(inn, "topends")["guests"] == []
    finally:
        terminal.close()
        assert inn("rm", "-f", "topends").code == 0


def frame(terminal: Terminal) -> bytes:
    """The next table that is drawn as a whole."""
    terminal.expect(b"\x1b[HNAME ")
    return terminal.expect(b"\x1b[J")


def test_on_a_terminal_it_goes_on_until_ctrl_c(inn: Inn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "linux")
    terminal = Terminal("top", "--interval", "0.2")
    try:
        terminal.expect(b"\x1b[?1049h")
        for _ in range(3):
            terminal.expect(b"\x1b[HNAME ")
            terminal.expect(b"topidle")
        assert inn("pause", "topidle").code == 0
        terminal.expect(b"topidle  paused")
        assert inn("resume", "topidle").code == 0
        terminal.expect(b"topidle  running")
        terminal.type(b"\x03")
        terminal.expect(b"\x1b[?25h\x1b[?1049l")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()


def test_terminated_it_restores_the_terminal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "linux")
    terminal = Terminal("top", "topidle")
    try:
        terminal.expect(b"topidle")
        os.kill(terminal.process.pid, signal.SIGTERM)
        terminal.expect(b"\x1b[?25h\x1b[?1049l")
        assert terminal.process.wait(30) == 128 + signal.SIGTERM
    finally:
        terminal.close()
