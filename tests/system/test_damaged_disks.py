# SPDX-License-Identifier: Apache-2.0
"""Disks that were damaged while nobody used them: repaired and said, or refused and said."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import Inn, record

from innkeeper.registry.layout import host_layout

KIB, MIB = 1 << 10, 1 << 20

# Of both file systems: where the superblock is, and how long.
SUPERBLOCKS = {"ext4": (KIB, KIB), "btrfs": (64 * KIB, 4 * KIB)}


@pytest.fixture(scope="module")
def written() -> dict[str, Path]:
    """The file of a disk with each file system, on which a guest wrote."""
    return {}


@pytest.fixture
def disks(inn: Inn, written: dict[str, Path]) -> dict[str, Path]:
    """Two disks whose names are their file systems, with a file `kept` on each."""
    if not written:
        assert inn("disk", "create", "ext4", "--size", "32M", "--sparse").code == 0
        btrfs = ("--size", "160M", "--fs", "btrfs", "--sparse")
        assert inn("disk", "create", "btrfs", *btrfs).code == 0
        script = "echo kept > /ext4/kept; echo kept > /btrfs/kept"
        done = inn("run", *places("ext4", "btrfs"), "--", "sh", "-c", script)
        assert done.code == 0, done.error
        for name in SUPERBLOCKS:
            written[name] = host_layout().disks / name / "disk.img"
            shutil.copy(written[name], written[name].with_suffix(".good"))
    for path in written.values():
        shutil.copy(path.with_suffix(".good"), path)
    return written


@pytest.fixture(scope="module", autouse=True)
def _removed(written: dict[str, Path]) -> Iterator[None]:
    yield
    for path in written.values():
        shutil.rmtree(path.parent)


def places(*names: str) -> list[str]:
    return [word for name in names for word in ("--disk", f"{name}:/{name}")]


def overwrite(path: Path, at: int, length: int, byte: bytes = b"\0") -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(byte * length)


def tree_root_places(path: Path) -> list[int]:
    """Where both copies of btrfs's tree of trees are on the disk."""
    dump = ["btrfs", "inspect-internal", "dump-super", str(path)]
    said = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    root = re.search(r"^root\s+(\d+)", said, re.MULTILINE)
    assert root is not None
    find = ["btrfs-map-logical", "-l", root[1], str(path)]
    said = subprocess.run(find, capture_output=True, text=True, check=True).stdout
    return [int(number) for number in re.findall(r"physical (\d+)", said)]


def test_lost_superblocks_are_restored_and_the_loss_is_told(
    inn: Inn, disks: dict[str, Path]
) -> None:
    for name, (at, length) in SUPERBLOCKS.items():
        overwrite(disks[name], at, length)
    try:
        assert inn("create", "hurt", *places(*disks)).code == 0
        begun = inn("start", "hurt")
        assert begun.code == 0, begun.error
        for name in disks:
            assert f"disk '{name}': PARTIAL_DATA_LOSS: " in begun.error
            assert f"{name} at /{name}; PARTIAL_DATA_LOSS" in inn("inspect", "hurt").stdout.decode()
        found = {disk["name"]: disk["condition"] for disk in record(inn, "hurt")["disks"]}
        assert found == dict.fromkeys(disks, "PARTIAL_DATA_LOSS")
        kept = inn("exec", "hurt", "cat", *(f"/{name}/kept" for name in disks))
        assert kept.stdout == b"kept\nkept\n"
        assert inn("stop", "hurt").code == 0
        # Repaired for good.
        again = inn("start", "hurt")
        assert (again.code, "PARTIAL_DATA_LOSS" in again.error) == (0, False)
    finally:
        inn("rm", "-f", "hurt")


def test_a_lost_tree_is_replaced_by_an_older_one(inn: Inn, disks: dict[str, Path]) -> None:
    found = tree_root_places(disks["btrfs"])
    assert len(found) == 2
    for at in found:
        overwrite(disks["btrfs"], at, 4096, b"x")
    done = inn("run", *places("btrfs"), "--", "cat", "/btrfs/kept")
    assert done.code == 0, done.error
    assert "PARTIAL_DATA_LOSS: an older tree is used" in done.error


def test_hopeless_disks_fail_the_start_and_are_never_formatted(
    inn: Inn, disks: dict[str, Path]
) -> None:
    # The superblock is good, and nothing else.
    overwrite(disks["btrfs"], MIB, disks["btrfs"].stat().st_size - MIB, b"x")
    overwrite(disks["ext4"], 0, disks["ext4"].stat().st_size, b"x")
    for name, path in disks.items():
        before = path.read_bytes()
        done = inn("run", *places(name), "--", "true")
        assert done.code == 125, name
        assert f"cannot use its disk: /{name}: " in done.error, name
        assert path.read_bytes() == before, name
