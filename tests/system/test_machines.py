# SPDX-License-Identifier: Apache-2.0
"""Machines that stay: their life, what is recorded of it, and what happens when it ends badly."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import Eventually, Inn, alive, record


@pytest.fixture
def machine(inn: Inn) -> Iterator[str]:
    """A machine that exists and does not run; removed at the end, whatever happened to it."""
    assert inn("create", "box").code == 0
    yield "box"
    assert inn("rm", "-f", "box").code == 0


def test_the_whole_life_of_a_machine(inn: Inn, machine: str) -> None:
    assert record(inn, machine)["state"] == "created"
    begun = inn("start", machine, "--timings")
    assert begun.code == 0, begun.error
    assert "boot" in begun.error

    again = inn("start", machine)
    assert again.code == 0
    assert "box is running already" in again.error

    done = inn("exec", "--env", "K=v", machine, "--", "sh", "-c", "echo $K; exit 9")
    assert (done.code, done.stdout) == (9, b"v\n")
    done = inn("exec", machine, "sh", "-c", "touch /tmp/kept; cat", stdin=b"in")
    assert (done.code, done.stdout) == (0, b"in")
    assert inn("exec", machine, "test", "-e", "/tmp/kept").code == 0
    # It looks at every file system, so it waits for whatever does not answer.
    assert inn("exec", machine, "--", "sync").code == 0

    assert inn("wait", machine, "--for", "agent").stdout == b"running\n"
    assert inn("stop", machine).code == 0
    ended = record(inn, machine)
    assert (ended["state"], ended["rung"], ended["starts"]) == ("stopped", "agent", 1)
    assert {"qemu", "boot"} <= set(ended["stages"])
    assert inn("exec", machine, "true").code == 125
    assert "box is not running" in inn("stop", machine).error


def test_a_pause_freezes_the_guest_and_a_resume_sets_its_clock(inn: Inn, machine: str) -> None:
    assert inn("start", machine).code == 0
    assert inn("pause", machine).code == 0
    assert record(inn, machine)["state"] == "paused"
    time.sleep(3)  # the pause itself, which the guest must not have noticed
    assert inn("resume", machine).code == 0
    done = inn("exec", machine, "date", "+%s")
    assert abs(int(done.stdout) - time.time()) < 2
    assert record(inn, machine)["state"] == "running"
    # A paused guest cannot be asked: it is killed, and soon.
    assert inn("pause", machine).code == 0
    assert inn("stop", machine).code == 0
    assert record(inn, machine)["rung"] == "kill"


def test_a_terminated_keeper_stops_its_guest_in_order(
    inn: Inn, machine: str, eventually: Eventually
) -> None:
    assert inn("start", machine).code == 0
    keeper = record(inn, machine)["keeper_pid"]
    os.kill(int(str(keeper)), signal.SIGTERM)
    eventually(lambda: not alive(keeper))
    ended = record(inn, machine)
    assert (ended["state"], ended["rung"]) == ("stopped", "agent")


def test_a_panic_is_recorded_with_its_evidence(
    inn: Inn, machine: str, eventually: Eventually
) -> None:
    assert inn("start", machine).code == 0
    done = inn("exec", machine, "sh", "-c", "echo c > /proc/sysrq-trigger; sleep 60")
    assert done.code == 125
    assert "sysrq triggered crash" in done.error
    eventually(lambda: record(inn, machine)["state"] == "failed")
    error = record(inn, machine)["error"]
    assert isinstance(error, dict)
    assert any("Kernel panic" in line for line in error["evidence"])
    text = inn("inspect", machine).stdout.decode()
    assert "last error the guest's kernel panicked" in text


def test_the_restart_policy_brings_a_guest_back(inn: Inn, eventually: Eventually) -> None:
    assert inn("create", "phoenix", "--restart", "on-failure").code == 0
    try:
        assert inn("start", "phoenix").code == 0
        os.kill(int(str(record(inn, "phoenix")["qemu_pid"])), signal.SIGKILL)
        eventually(lambda: record(inn, "phoenix")["restarts"] == 1)
        assert inn("wait", "phoenix", "--for", "agent", "--timeout", "60s").code == 0
        assert inn("exec", "phoenix", "true").code == 0
        assert inn("stop", "phoenix").code == 0
        assert record(inn, "phoenix")["state"] == "stopped"
    finally:
        assert inn("rm", "-f", "phoenix").code == 0


def test_a_start_that_fails_says_why_and_is_recorded(inn: Inn) -> None:
    assert inn("create", "doomed", "--append", "rdinit=/nowhere").code == 0
    try:
        done = inn("start", "doomed")
        assert done.code == 125
        assert "panicked" in done.error
        assert record(inn, "doomed")["state"] == "failed"
    finally:
        assert inn("rm", "-f", "doomed").code == 0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_published_port_leads_into_the_guest(inn: Inn) -> None:
    port = free_port()
    created = inn("create", "web", "--network", "user", "--publish", f"{port}:80")
    assert created.code == 0, created.error
    try:
        assert inn("start", "web").code == 0
        serve = "mkdir /www; echo hello > /www/index.html; httpd -h /www -p 80"
        assert inn("exec", "web", "sh", "-c", serve).code == 0
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
        assert b"hello" in answer
    finally:
        assert inn("rm", "-f", "web").code == 0


def test_machine_files(inn: Inn, tmp_path: Path) -> None:
    file = tmp_path / "web.toml"
    file.write_text('name = "fromfile"\ncpus = 2\nmemory = "1G"\nrestart = "on-failure"\n')
    try:
        assert inn("create", "--file", str(file), "--cpus", "3").code == 0
        machine = json.loads(inn("inspect", "fromfile", "--format", "json").stdout)["machine"]
        assert (machine["cpus"], machine["memory_bytes"]) == (3, 1 << 30)
        assert machine["restart"] == "on-failure"
        assert inn("create", "fromfile").code == 2
    finally:
        assert inn("rm", "-f", "fromfile").code == 0
    file.write_text('name = "x"\ncpu = 2\n')
    done = inn("create", "--file", str(file))
    assert done.code == 2
    assert "did you mean 'cpus'?" in done.error


def test_names_that_are_not_there_and_files_that_are_damaged(
    inn: Inn, machine: str, state_dir: Path
) -> None:
    done = inn("start", "bex")
    assert done.code == 2
    assert "did you mean 'box'?" in done.error
    file = state_dir / "machines" / machine / "record.json"
    good = file.read_bytes()
    file.write_bytes(b'{"name": ')
    try:
        done = inn("inspect", machine)
        assert done.code == 125
        assert f"the file {file} is damaged" in done.error
        assert b"damaged" in inn("ls").stdout
        assert file.read_bytes() == b'{"name": ', "a damaged file is not reset"
    finally:
        file.write_bytes(good)


def test_a_stop_between_two_lives_is_a_stop(inn: Inn, eventually: Eventually) -> None:
    assert inn("create", "lazarus", "--restart", "always").code == 0
    try:
        assert inn("start", "lazarus").code == 0
        assert inn("exec", "lazarus", "--", "sh", "-c", "poweroff -f; sleep 9").code == 125
        eventually(lambda: record(inn, "lazarus")["qemu_pid"] is None)
        assert inn("stop", "lazarus").code == 0
        assert record(inn, "lazarus")["state"] == "stopped"
    finally:
        assert inn("rm", "-f", "lazarus").code == 0
