# SPDX-License-Identifier: Apache-2.0
"""Two samples of guests make rows; a sample is read from records and /proc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from innkeeper.model.machine import Machine
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import create_machine, read_record, write_record
from innkeeper.registry.names import claim
from innkeeper.registry.usage import GuestSample, Row, Sample, SortKey, take_sample, usage_rows
from innkeeper.system.usage import ProcessUsage

MIB = 1 << 20


def process(pid: int, cpu_s: float, **values: float) -> ProcessUsage:
    known = {"started_s": 90.0, "memory_bytes": MIB, "read_bytes": 0, "written_bytes": 0}
    return ProcessUsage(pid=pid, parent_pid=1, cpu_s=cpu_s, **{**known, **values})  # type: ignore[arg-type]


def guest(keeper: ProcessUsage | None, qemu: ProcessUsage | None, name: str = "a") -> GuestSample:
    return GuestSample(
        name=name,
        state="running",
        guest_memory_bytes=256 * MIB,
        configured_memory_bytes=512 * MIB,
        keeper=keeper,
        qemu=qemu,
    )


def sample(at_s: float, *guests: GuestSample) -> Sample:
    return Sample(at_s, {one.name: one for one in guests})


def test_keeper_and_qemu_together_make_a_row() -> None:
    before = sample(100.0, guest(process(7, 1.0, read_bytes=10), process(8, 5.0)))
    later = guest(
        process(7, 1.5, read_bytes=30, written_bytes=5),
        process(8, 6.5, memory_bytes=9 * MIB, written_bytes=7),
    )
    assert usage_rows(before, sample(102.0, later)) == [
        Row(
            name="a",
            state="running",
            cpu_percent=100.0,
            memory_bytes=10 * MIB,
            guest_memory_bytes=256 * MIB,
            configured_memory_bytes=512 * MIB,
            read_bytes_per_s=10.0,
            written_bytes_per_s=6.0,
            uptime_s=12.0,
            keeper_pid=7,
            qemu_pid=8,
        )
    ]


def test_a_guest_that_came_has_no_rates_and_one_that_went_no_row() -> None:
    before = sample(100.0, guest(process(7, 1.0), process(8, 5.0), "went"))
    after = sample(101.0, guest(process(9, 1.0), process(10, 5.0), "came"))
    (row,) = usage_rows(before, after)
    assert (row.name, row.cpu_percent, row.read_bytes_per_s) == ("came", None, None)
    assert (row.memory_bytes, row.uptime_s) == (2 * MIB, 11.0)


def test_a_pid_that_is_another_process_now_is_not_compared() -> None:
    before = sample(100.0, guest(process(7, 1.0), process(8, 50.0)))
    again = guest(process(7, 1.25), process(8, 60.0, started_s=100.5))
    (row,) = usage_rows(before, sample(101.0, again))
    assert row.cpu_percent == 25.0
    assert row.uptime_s == 0.5
    other = guest(process(7, 9.0, started_s=100.5), process(8, 60.0, started_s=100.5))
    assert usage_rows(before, sample(101.0, other))[0].cpu_percent is None


def test_what_cannot_be_read_is_none_and_what_falls_is_nothing() -> None:
    before = sample(100.0, guest(None, process(8, 1.0, written_bytes=4096)))
    later = ProcessUsage(pid=8, parent_pid=1, started_s=90.0, cpu_s=1.0, written_bytes=0)
    (row,) = usage_rows(before, sample(101.0, guest(None, later)))
    assert (row.memory_bytes, row.read_bytes_per_s, row.written_bytes_per_s) == (None, None, 0.0)
    (row,) = usage_rows(before, sample(101.0, guest(None, None)))
    assert (row.cpu_percent, row.memory_bytes, row.uptime_s) == (None, None, None)
    # Two samples of the same moment divide by nothing.
    assert usage_rows(before, before)[0].cpu_percent is None


@pytest.mark.parametrize(
    ("sort", "names"), [("cpu", "bcad"), ("memory", "cabd"), ("io", "acbd"), ("name", "abcd")]
)
def test_the_order(sort: SortKey, names: str) -> None:
    first = [guest(None, process(pid, 0.0), name) for pid, name in enumerate("abcd")]
    second = [
        guest(None, process(0, 1.0, memory_bytes=2, written_bytes=9), "a"),
        guest(None, process(1, 3.0, memory_bytes=1, read_bytes=1), "b"),
        guest(None, process(2, 2.0, memory_bytes=3, read_bytes=2), "c"),
        guest(None, None, "d"),
    ]
    rows = usage_rows(sample(1.0, *reversed(first)), sample(2.0, *reversed(second)), sort=sort)
    assert "".join(row.name for row in rows) == names


def test_a_sample_holds_what_runs_and_qemu_only_as_its_keepers_child(tmp_path: Path) -> None:
    for name in ("run", "state"):
        (tmp_path / name).mkdir(mode=0o700)
    layout = Layout(
        runtime_dir=str(tmp_path / "run"),
        cache_dir=str(tmp_path),
        state_dir=str(tmp_path / "state"),
    )
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pids = {"lives": child.pid, "taken": os.getppid(), "other": child.pid, "rests": None}
    for name, qemu_pid in pids.items():
        create_machine(layout, Machine(name=name, memory_bytes=300 * MIB))
        record = msgspec.structs.replace(
            read_record(layout, name),
            state="created" if name == "rests" else "running",
            revision=9,
            keeper_pid=os.getpid(),
            qemu_pid=qemu_pid,
            memory_bytes=200 * MIB,
        )
        write_record(layout, record)
    held = [claim(layout, name) for name in ("lives", "taken", "other")]
    for one in held:
        one.write_state(read_record(layout, one.folder.path.name))
    try:
        taken = take_sample(layout, ("lives", "taken", "rests"))
        assert set(taken.guests) == {"lives", "taken"}
        lives = taken.guests["lives"]
        assert (lives.guest_memory_bytes, lives.configured_memory_bytes) == (200 * MIB, 300 * MIB)
        assert lives.keeper is not None
        assert lives.qemu is not None
        assert (lives.keeper.pid, lives.qemu.pid) == (os.getpid(), child.pid)
        assert taken.guests["taken"].qemu is None
        assert set(take_sample(layout).guests) == {"lives", "taken", "other"}
    finally:
        for one in held:
            one.release()
        child.communicate(b"\n")
