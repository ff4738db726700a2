# SPDX-License-Identifier: Apache-2.0
"""Records in two places: the one that was written last is true, and a full disk has room for it."""

from __future__ import annotations

import errno
import os

import msgspec
import pytest

from innkeeper.errors import InnError, OutOfSpace
from innkeeper.model.machine import Machine
from innkeeper.model.record import Record
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import create_machine, delete_machine, read_record, write_record
from innkeeper.registry.names import claim, remove_dead
from innkeeper.registry.records import load_record


def record(revision: int, **values: object) -> Record:
    start = Record(name="box", state="stopped", changed_at=1.0, revision=revision)
    return msgspec.structs.replace(start, **values)


def test_a_second_write_needs_no_room(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    create_machine(layout, Machine(name="box"))
    write_record(layout, record(1))
    write_record(layout, record(2))
    sizes = [path.stat().st_blocks for path in layout.machine("box").path.glob("*record.json*")]
    assert len(sizes) == 2
    assert len(set(sizes)) == 1
    write_record(layout, record(3, reason="short"))
    assert load_record(layout.machine("box").record).reason == "short"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutOfSpace, match="no space left to write"):
        write_record(layout, record(4, reason="lost"))
    assert load_record(layout.machine("box").record).reason == "short"


def test_the_higher_revision_is_true_and_outlives_the_sweep(layout: Layout) -> None:
    create_machine(layout, Machine(name="box"))
    write_record(layout, record(5, state="running"))
    held = claim(layout, "box", machine=True)
    held.write_state(record(6, reason="its disk was read-only"))
    held.keeps_state = True
    held.release()
    assert [path.name for path in layout.guest("box").path.iterdir()] == ["state.json"]
    assert read_record(layout, "box").reason == "its disk was read-only"
    remove_dead(layout, "box")
    assert not layout.guest("box").path.exists()
    assert read_record(layout, "box").reason == "its disk was read-only"


def test_a_start_and_a_removal_exclude_each_other(layout: Layout) -> None:
    create_machine(layout, Machine(name="box"))
    held = claim(layout, "box", machine=True)
    with pytest.raises(InnError, match="is being started or removed"):
        delete_machine(layout, "box")
    held.release()
    assert delete_machine(layout, "box")
    with pytest.raises(InnError, match="was removed while it started"):
        claim(layout, "box", machine=True)
    assert list(layout.runtime.iterdir()) == []


def test_a_claim_whose_folder_was_taken_leaves_it_alone(layout: Layout) -> None:
    create_machine(layout, Machine(name="box"))
    first = claim(layout, "box")
    remaining = layout.guest("box")
    remaining.lock.unlink()
    second = claim(layout, "box")
    assert not first.in_place()
    with pytest.raises(InnError, match="was removed"):
        first.write_state(record(9))
    first.release()
    assert second.in_place()
    assert remaining.lock.exists()
    second.release()
