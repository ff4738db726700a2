# SPDX-License-Identifier: Apache-2.0
"""Disks as values: sizes, names, places."""

from __future__ import annotations

import pytest

from innkeeper.errors import OutOfSpace, UsageError
from innkeeper.model.disk import (
    DISKS_MAXIMUM,
    DiskUse,
    automatic_size,
    check_size,
    parse_disk_use,
    space_state,
)
from innkeeper.model.machine import Machine
from innkeeper.model.sizes import GIB, MIB
from innkeeper.model.toml import parse_machine


@pytest.mark.parametrize(
    ("text", "use"),
    [
        ("data:/mnt/data", DiskUse(name="data", path="/mnt/data")),
        ("data:/mnt/data:ro", DiskUse(name="data", path="/mnt/data", read_only=True)),
        ("data:/mnt/data:rw", DiskUse(name="data", path="/mnt/data")),
        ("data://srv//a/./b/", DiskUse(name="data", path="/srv/a/b")),
        ("data:/mnt/mit Leerzeichen", DiskUse(name="data", path="/mnt/mit Leerzeichen")),
    ],
)
def test_a_disk_and_its_place(text: str, use: DiskUse) -> None:
    assert parse_disk_use(text) == use
    assert parse_disk_use(str(use)) == use


@pytest.mark.parametrize(
    "text",
    [
        *("", "data", "data:", "data:mnt", ":/mnt", "Data:/mnt", "data:/mnt:no", "data:/mnt:ro:"),
        *("data:/", "data:/proc/x", "data:/run", "data:/tmp/x", "data:/dev", "data:/a/../proc"),
        *('data:/a"b', "data:/a\nb", "data:/a\0b", f"data:/{'x' * 255}"),
    ],
)
def test_what_is_no_disk_with_a_place(text: str) -> None:
    with pytest.raises(UsageError):
        parse_disk_use(text)


def test_disks_of_a_machine() -> None:
    text = 'name = "box"\ndisks = ["a:/a", "b:/b:ro"]\n'
    machine = parse_machine(text, source="file")
    assert [str(use) for use in machine.disks] == ["a:/a", "b:/b:ro"]
    for twice in (("a:/a", "a:/b"), ("a:/a", "b:/a")):
        with pytest.raises(UsageError, match="twice"):
            Machine(name="box", disks=tuple(parse_disk_use(text) for text in twice))
    many = tuple(parse_disk_use(f"d{n}:/d{n}") for n in range(DISKS_MAXIMUM + 1))
    assert Machine(name="box", disks=many[1:]).disks == many[1:]
    with pytest.raises(UsageError, match="11 disks"):
        Machine(name="box", disks=many)


def test_sizes() -> None:
    assert check_size(64 * MIB + 4095, "ext4") == 64 * MIB
    with pytest.raises(UsageError, match="too small for btrfs"):
        check_size(64 * MIB, "btrfs")


def test_an_automatic_size() -> None:
    free = 3 * GIB + 12345
    assert automatic_size(free) == int(free * 9 / 10) // 4096 * 4096
    assert automatic_size(GIB * 10 // 9 + 4097) == GIB
    with pytest.raises(OutOfSpace) as caught:
        automatic_size(GIB)
    assert "--size" in caught.value.fix


def test_states_of_space() -> None:
    total = 100 * MIB
    state = None
    told = []
    for free in (50, 11, 9, 11, 9, 13, 9, 1, 2.2, 2.4, 2.6, 0, 12, 40):
        state = space_state(state, total, int(free * MIB))
        told.append(state[0])
    # Between what it takes to enter a state and to leave it, the state before counts.
    assert "".join(told) == "NNLLLNLCCCLCLN"
    # Of large disks, not a part counts but what a guest needs.
    assert space_state(None, 1000 * GIB, 2 * GIB) == "NORMAL"
    assert space_state(None, 1000 * GIB, GIB - 1) == "LOW"
    assert space_state(None, 1000 * GIB, 255 * MIB) == "CRITICAL"
    assert space_state(None, 0, 0) == "NORMAL"
