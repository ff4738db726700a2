# SPDX-License-Identifier: Apache-2.0
"""The quick way to list machines says what the way of one machine says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest

from innkeeper.errors import InnError
from innkeeper.model.machine import Machine
from innkeeper.model.record import Record
from innkeeper.registry.layout import Layout
from innkeeper.registry.listing import list_machines
from innkeeper.registry.machines import create_machine, load_machine, read_record, write_record
from innkeeper.registry.names import claim
from innkeeper.system.files import folder_size_bytes, read_whole


def test_every_kind_of_machine(layout: Layout) -> None:
    assert list_machines(layout) == []
    for name in ("plain", "lives", "died", "torn", "bare"):
        create_machine(layout, Machine(name=name, cpus=3))
    for name in ("lives", "died"):
        state = msgspec.structs.replace(read_record(layout, name), state="running", keeper_pid=1)
        write_record(layout, state)
    held = [claim(layout, "lives"), claim(layout, "guest")]
    layout.machine("torn").record.write_text("{")
    layout.machine("bare").definition.unlink()
    try:
        entries = {entry.name: entry for entry in list_machines(layout)}
        assert list(entries) == ["bare", "died", "guest", "lives", "plain", "torn"]
        for name in ("plain", "lives", "died"):
            assert entries[name].record == read_record(layout, name)
            assert entries[name].machine == load_machine(layout, name)
        states = {name: entry.record and entry.record.state for name, entry in entries.items()}
        assert states["lives"] == "running"
        assert states["died"] == "failed"
        assert states["guest"] == "starting"
        assert entries["guest"].machine is None
        with pytest.raises(InnError) as damaged:
            read_record(layout, "torn")
        assert entries["torn"].fault == damaged.value.brief
        assert "bare" in entries["bare"].fault
    finally:
        for claimed in held:
            claimed.release()


def test_a_record_of_any_size_is_read_whole(tmp_path: Path) -> None:
    record = Record(name="x", state="failed", changed_at=1.0, reason="y" * 200_000)
    file = tmp_path / "record.json"
    file.write_bytes(msgspec.json.encode(record))
    assert msgspec.json.decode(read_whole(str(file)), type=Record) == record


def test_sizes_are_those_of_du(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").write_bytes(b"x" * 10_000)
    (tmp_path / "a/b/link").hardlink_to(tmp_path / "a/file")
    with (tmp_path / "a/b/sparse").open("wb") as sparse:
        sparse.truncate(1 << 30)
    du = subprocess.run(
        ["du", "-s", "--block-size=1", str(tmp_path / "a")], capture_output=True, check=True
    )
    assert folder_size_bytes(tmp_path / "a") == int(du.stdout.split()[0])
    assert folder_size_bytes(tmp_path / "nothing") == 0
