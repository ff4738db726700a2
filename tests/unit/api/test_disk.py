# SPDX-License-Identifier: Apache-2.0
"""Disks for Python programs."""

from __future__ import annotations

from pathlib import Path

import pytest

import innkeeper
from innkeeper.errors import NameInUse, UnknownName
from innkeeper.model.disk import parse_disk_use
from innkeeper.model.machine import Machine
from innkeeper.registry.layout import host_layout
from innkeeper.registry.machines import create_machine, delete_machine


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INN_STATE_DIR", str(tmp_path))


def test_the_life_of_a_disk(tmp_path: Path) -> None:
    disk = innkeeper.Disk.create("data", size="16M", allocate=False)
    assert (disk.name, disk.path) == ("data", tmp_path / "disks/data/disk.img")
    assert disk.size.size_bytes == 16 << 20
    copy = innkeeper.Disk.create("copy", source=disk.path, fs="btrfs")
    assert copy.size.size_bytes == disk.size.size_bytes
    assert innkeeper.Disk.list() == ("copy", "data")
    copy.remove()
    machine = Machine(name="box", disks=(parse_disk_use("data:/srv"),))
    create_machine(host_layout(), machine)
    assert innkeeper.Disk.get("data").users.machines == ("box",)
    with pytest.raises(NameInUse, match="named by the machine box"):
        disk.remove()
    assert delete_machine(host_layout(), "box")
    disk.remove()
    with pytest.raises(UnknownName):
        innkeeper.Disk.get("data")
