# SPDX-License-Identifier: Apache-2.0
"""Machines on disk: whole or not there, named when damaged, true together with the lock."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from innkeeper.errors import InnError, OutOfSpace, UnknownName, UsageError
from innkeeper.model.machine import Machine
from innkeeper.registry import machines
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import (
    create_machine,
    delete_machine,
    load_machine,
    machine_names,
    read_record,
    write_record,
)
from innkeeper.registry.names import claim


def test_a_machine_comes_and_goes(layout: Layout) -> None:
    create_machine(layout, Machine(name="box", cpus=2))
    assert machine_names(layout) == ("box",)
    assert load_machine(layout, "box") == Machine(name="box", cpus=2)
    assert read_record(layout, "box").state == "created"
    with pytest.raises(UsageError, match="there is a machine named 'box'"):
        create_machine(layout, Machine(name="box"))
    assert delete_machine(layout, "box")
    assert not delete_machine(layout, "box")
    assert list(layout.machines.iterdir()) == []


def test_a_live_state_without_a_keeper_is_a_failure(layout: Layout) -> None:
    create_machine(layout, Machine(name="box"))
    running = msgspec.structs.replace(read_record(layout, "box"), state="running", keeper_pid=1)
    write_record(layout, running)
    assert read_record(layout, "box").state == "failed"
    assert read_record(layout, "box").reason == "its keeper died"
    held = claim(layout, "box")
    assert read_record(layout, "box").state == "running"
    held.release()


def test_a_full_disk_leaves_no_half_machine(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def full(path: Path, _data: bytes) -> None:
        if written:
            raise OutOfSpace(f"no space left to write {path}")
        written.append(path)
        path.touch()

    monkeypatch.setattr(machines, "write_new", full)
    with pytest.raises(OutOfSpace):
        create_machine(layout, Machine(name="box"))
    assert list(layout.machines.iterdir()) == []


def test_damaged_files_are_named_and_left_alone(layout: Layout) -> None:
    create_machine(layout, Machine(name="box"))
    folder = layout.machine("box")
    for file, read in ((folder.definition, load_machine), (folder.record, read_record)):
        file.write_text("{")
        with pytest.raises(InnError, match=f"the file {file} is damaged"):
            read(layout, "box")
        assert file.read_text() == "{"


def test_an_unknown_name_is_answered_with_the_nearest(layout: Layout) -> None:
    create_machine(layout, Machine(name="database"))
    with pytest.raises(UnknownName) as caught:
        load_machine(layout, "databse")
    assert "did you mean 'database'?" in caught.value.fix
    with pytest.raises(UsageError):
        load_machine(layout, "../escape")
