# SPDX-License-Identifier: Apache-2.0
"""Verbs with several names: at once, one apart from the others, and the question before the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import BOOT_LIMIT_S, INN, Inn
from terminals import Terminal

NAMES = ("several1", "several2", "several3")


@pytest.fixture(scope="module")
def machines(state_dir: Path) -> Iterator[tuple[str, ...]]:
    """Three machines that run at first, for all tests of this file."""
    for name in NAMES:
        subprocess.run([*INN, "create", name], check=True, capture_output=True)
    subprocess.run([*INN, "start", *NAMES], check=True, capture_output=True)
    yield NAMES
    subprocess.run([*INN, "rm", "-f", *NAMES], check=True, capture_output=True)


def states(inn: Inn) -> dict[str, str]:
    rows = json.loads(inn("ls", "--format", "json").stdout)["machines"]
    return {row["name"]: row["state"] for row in rows if row["name"] in NAMES}


def test_one_that_fails_does_not_hold_up_the_others(
    inn: Inn, machines: tuple[str, ...], runtime_dir: Path
) -> None:
    done = inn("pause", "nobody", *machines)
    assert done.code == 2
    assert "unknown machine 'nobody'" in done.error
    assert done.stdout.split() == [name.encode() for name in machines]
    assert set(states(inn).values()) == {"paused"}
    assert inn("resume", *machines, "nobody").code == 2
    assert set(states(inn).values()) == {"running"}
    again = inn("start", "nobody", *machines)
    assert (again.code, again.error.count("is running already")) == (2, 3)
    for name in machines:
        folder = runtime_dir / name
        assert folder.stat().st_mode & 0o7777 == 0o700


def test_all_are_stopped_at_the_same_time(
    inn: Inn, machines: tuple[str, ...], runtime_dir: Path
) -> None:
    # Stuck guests: each takes the whole ladder, 1 s and three tenths of it.
    for name in machines:
        record = json.loads(inn("inspect", name, "--format", "json").stdout)["record"]
        os.kill(record["qemu_pid"], signal.SIGSTOP)
    done = inn("stop", "--all", "--timeout", "1s")
    assert done.code == 0, done.error
    assert done.stdout.split() == [name.encode() for name in machines]
    assert done.seconds < 3 * 1.3
    assert set(states(inn).values()) == {"stopped"}
    assert [name for name in machines if (runtime_dir / name).exists()] == []
    # Nothing runs: what was asked for is so. A name that nothing has is a typo.
    assert inn("stop", "--all").stdout == b""
    assert inn("stop", machines[0]).code == 0
    assert inn("stop", "severl1").code == 2
    assert inn("stop").code == 2
    assert inn("stop", "--all", machines[0]).code == 2


def test_sizes_and_their_total(inn: Inn, machines: tuple[str, ...], state_dir: Path) -> None:
    listed = json.loads(inn("ls", "--sizes", "--format", "json").stdout)
    sizes = {row["name"]: row["size_bytes"] for row in listed["machines"]}
    for name in machines:
        du = ["du", "-s", "--block-size=1", str(state_dir / "machines" / name)]
        told = subprocess.run(du, check=True, capture_output=True).stdout
        assert sizes[name] == int(told.split()[0])
    assert listed["total_size_bytes"] == sum(sizes.values())
    last = inn("ls", "--sizes").stdout.decode().splitlines()[-1]
    assert last.startswith(f"Total: {len(sizes)} (")
    assert "3 stopped" in last


def test_a_removal_is_asked_about_on_a_terminal(inn: Inn) -> None:
    for answer, told, stays in ((b"\n", b"is kept", True), (b"y\n", b"asked\r\n", False)):
        if not stays:
            assert b"asked" in inn("ls", "-q").stdout
        else:
            assert inn("create", "asked").code == 0
        terminal = Terminal("rm", "asked")
        try:
            terminal.expect(b"[y/N]: ")
            terminal.type(answer)
            terminal.expect(told)
            assert terminal.process.wait(BOOT_LIMIT_S) == 0
        finally:
            terminal.close()
    assert b"asked" not in inn("ls", "-q").stdout
    assert inn("rm", "-f", "asked").code == 0
    assert inn("rm", "-y", "asked").code == 2
