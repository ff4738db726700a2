# SPDX-License-Identifier: Apache-2.0
"""A guest's memory while it runs, and a machine's settings while it does not."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guests import Inn

from innkeeper import AsyncMachine, Machine
from innkeeper.errors import UsageError

MIB = 1 << 20

Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture
def machine(inn: Inn) -> Iterator[str]:
    assert inn("create", "mem", "--memory", "384M").code == 0
    yield "mem"
    assert inn("rm", "-f", "mem").code == 0


def inspect(inn: Inn, name: str) -> tuple[dict[str, object], dict[str, object]]:
    """The machine's settings and its record."""
    value = json.loads(inn("inspect", name, "--format", "json").stdout)
    return value["machine"], value["record"]


def available(inn: Inn, name: str) -> int:
    """MiB that the guest's programs can still use."""
    text = inn("exec", name, "cat", "/proc/meminfo").stdout.decode()
    match = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    assert match is not None
    return int(match[1]) // 1024


def resident(pid: object) -> int:
    """MiB of the guest's memory that are the host's pages now."""
    match = re.search(
        r"^RssShmem:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE
    )
    assert match is not None
    return int(match[1]) // 1024


def test_a_running_guest_gives_memory_back_and_takes_it_again(
    inn: Inn, machine: str, eventually: Eventually
) -> None:
    assert inn("start", machine).code == 0
    before = available(inn, machine)
    pid = inspect(inn, machine)[1]["qemu_pid"]
    assert inn("exec", machine, "sh", "-c", "dd if=/dev/zero of=/tmp/fill bs=1M count=96").code == 0
    touched = resident(pid)
    assert touched > 96
    assert inn("exec", machine, "rm", "/tmp/fill").code == 0

    done = inn("set", machine, "--memory", "256M")
    assert (done.code, done.stdout) == (0, b"mem\n")
    assert "mem has 256M of memory until it ends" in done.error
    # Since Linux 6.7 a CPU keeps up to an eighth of its zone's freed pages for itself,
    # which count as neither free nor available until its next rounds of bookkeeping.
    eventually(lambda: before - available(inn, machine) == pytest.approx(128, abs=24))
    # What the guest had used is the host's again.
    eventually(lambda: touched - resident(pid) > 70)
    assert inspect(inn, machine)[1]["memory_bytes"] == 256 * MIB
    assert b"memory now 256M" in inn("inspect", machine).stdout

    # The same from Python, and back to all of it.
    vm = Machine.get(machine)
    assert vm.set_memory(384 * MIB) == 384 * MIB
    eventually(lambda: available(inn, machine) == pytest.approx(before, abs=24))
    with pytest.raises(UsageError, match="was started with 384M"):
        vm.set_memory("385M")

    # A guest that uses its memory gets there when it can, and says how far it came.
    assert inn("exec", machine, "sh", "-c", "fallocate -l 150m /tmp/fill").code == 0
    done = inn("set", machine, "--memory", "96M", "--timeout", "1s")
    assert done.code == 124
    assert re.search(r"the guest has [\d.]+M of memory after 1 s, not yet the 96M", done.error)
    assert inn("exec", machine, "rm", "/tmp/fill").code == 0
    eventually(lambda: inspect(inn, machine)[1]["memory_bytes"] == 96 * MIB)

    async def restore() -> int:
        return await (await AsyncMachine.get(machine)).set_memory("384M")

    assert asyncio.run(restore()) == 384 * MIB
    assert inn("pause", machine).code == 0
    paused = inn("set", machine, "--memory", "256M")
    assert paused.code == 2
    assert "is paused" in paused.error


def test_settings_hold_from_the_next_start_on(inn: Inn, machine: str) -> None:
    assert inn("set", machine, "--memory", "256M", "--cpus", "2").code == 0
    assert inn("start", machine).code == 0
    done = inn("set", machine, "--restart", "always", "--memory", "512M")
    assert done.code == 2
    assert "started with 256M" in done.error
    assert "mem runs; from its next start on: restart" in done.error
    settings, record = inspect(inn, machine)
    assert (settings["memory_bytes"], settings["cpus"]) == (256 * MIB, 2)
    assert settings["restart"] == "always"
    assert record["memory_bytes"] == 256 * MIB
    assert inn("exec", machine, "nproc").stdout == b"2\n"
    assert inn("stop", "--timeout", "0", machine).code == 0

    for arguments, said in (
        ((machine,), "nothing to set"),
        ((machine, "--cpus", "0"), "0 CPUs"),
        ((machine, "--publish", "80:80"), "published ports need a network"),
        (("men", "--cpus", "1"), "did you mean 'mem'"),
    ):
        refused = inn("set", *arguments)
        assert refused.code == 2
        assert said in refused.error
    assert inspect(inn, machine)[0] == settings
    assert inspect(inn, machine)[1]["memory_bytes"] is None
