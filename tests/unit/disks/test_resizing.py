# SPDX-License-Identifier: Apache-2.0
"""The file of a disk made larger and smaller, and shrinks that end in their middle."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from disk_archives import MIB, disk_content, write_disk

from innkeeper.disks.resizing import (
    cut_file,
    finish_shrink,
    grow_file,
    is_blank,
    make_overlay,
    settle,
    settled_disk,
    take_blocks,
    too_small,
)
from innkeeper.disks.store import (
    adopt_disk,
    disk_path,
    find_disk,
    hold_disk,
    make_disk,
    measure_disk,
    replace_description,
)
from innkeeper.errors import NameInUse, OutOfSpace
from innkeeper.model.disk import OVERLAY_FILE, StoredDisk

CONTENT = disk_content(2 * MIB, seed=31)
DRIVER = Path(__file__).parents[1] / "props" / "break_disk.py"


@pytest.fixture
def disk(disks: Path, tmp_path: Path) -> StoredDisk:
    return adopt_disk(disks, "box", write_disk(tmp_path / "raw", CONTENT), fstype="ext4")


def change(overlay: Path) -> bytes:
    """Write something to an overlay, as a guest does; what the disk holds with it."""
    command = ["qemu-io", "-f", "qcow2", "-c", "write -q -P 7 1M 64k", str(overlay)]
    subprocess.run(command, check=True)
    changed = bytearray(CONTENT)
    changed[MIB : MIB + 65536] = b"\7" * 65536
    return bytes(changed)


def content(disks: Path) -> bytes:
    return disk_path(disks, "box").read_bytes()


def test_a_disk_grows_and_is_cut(disks: Path, disk: StoredDisk) -> None:
    taken = measure_disk(disks, disk).taken_bytes
    grow_file(disks, disk, before=2 * MIB, size=4 * MIB, fixed=False)
    assert content(disks) == CONTENT + bytes(2 * MIB)
    assert measure_disk(disks, disk).taken_bytes == taken
    cut_file(disks, disk, MIB)
    assert content(disks) == CONTENT[:MIB]


def test_a_disk_with_all_its_blocks_keeps_them(disks: Path) -> None:
    disk = make_disk(disks, "box", size_bytes=16 * MIB, fstype="ext4")
    grow_file(disks, disk, before=16 * MIB, size=20 * MIB, fixed=True)
    assert measure_disk(disks, disk).taken_bytes >= 20 * MIB
    os.truncate(disk_path(disks, "box"), 0)
    take_blocks(disks, disk, 16 * MIB)
    assert measure_disk(disks, disk).taken_bytes >= 16 * MIB


def test_a_full_disk_leaves_a_disk_as_it_was(
    disks: Path, disk: StoredDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB, hard))
    try:
        with pytest.raises(OutOfSpace):
            grow_file(disks, disk, before=2 * MIB, size=4 * MIB, fixed=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert content(disks) == CONTENT
    monkeypatch.setattr("innkeeper.disks.resizing.disk_free_bytes", lambda _folder: MIB)
    with pytest.raises(OutOfSpace, match="are needed"):
        grow_file(disks, disk, before=2 * MIB, size=4 * MIB, fixed=True)


def test_a_qcow2_grows_and_is_cut(disks: Path, tmp_path: Path) -> None:
    qcow2 = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(qcow2), "4M"], check=True)
    disk = adopt_disk(disks, "box", qcow2, fstype="ext4")
    grow_file(disks, disk, before=4 * MIB, size=8 * MIB, fixed=False)
    assert measure_disk(disks, disk).size_bytes == 8 * MIB
    cut_file(disks, disk, 2 * MIB)
    assert measure_disk(disks, disk).size_bytes == 2 * MIB
    assert not is_blank(disks, disk)


def test_blank_disks(disks: Path, disk: StoredDisk) -> None:
    assert not is_blank(disks, disk)
    assert is_blank(disks, make_disk(disks, "new", size_bytes=16 * MIB, fstype="ext4"))


def test_an_overlay_is_written_back(disks: Path, disk: StoredDisk) -> None:
    changed = change(make_overlay(disks, disk))
    assert content(disks) == CONTENT
    said: list[str] = []
    after = finish_shrink(disks, disk, MIB + MIB // 2, report=said.append)
    assert content(disks) == changed[: MIB + MIB // 2]
    assert after == find_disk(disks, "box") == disk
    assert said == ["writing the changes back"]
    assert sorted(os.listdir(disks / "box")) == ["disk.img", "disk.json"]  # noqa: PTH208


def test_an_overlay_that_is_not_complete_is_thrown_away(disks: Path, disk: StoredDisk) -> None:
    change(make_overlay(disks, disk))
    with hold_disk(disks, "box", shared=False), pytest.raises(NameInUse):
        settled_disk(disks, "box")
    assert settled_disk(disks, "box") == disk
    assert content(disks) == CONTENT
    assert not (disks / "box" / OVERLAY_FILE).exists()


def test_one_that_is_complete_is_written_back_by_the_next_user(
    disks: Path, disk: StoredDisk
) -> None:
    changed = change(make_overlay(disks, disk))
    replace_description(disks, msgspec.structs.replace(disk, shrink_to_bytes=MIB + 65536))
    # Half of it was written, and the file was even cut already.
    with disk_path(disks, "box").open("r+b") as file:
        file.seek(MIB)
        file.write(b"\7" * 1000)
        file.truncate(MIB + 65536)
    assert settled_disk(disks, "box") == disk
    assert content(disks) == changed[: MIB + 65536]
    # Written back and removed, but not said yet.
    replace_description(disks, msgspec.structs.replace(disk, shrink_to_bytes=MIB))
    assert settle(disks, find_disk(disks, "box")) == disk
    assert content(disks) == changed[:MIB]


def test_the_least_size_is_named() -> None:
    error = too_small("box", 4 * MIB, 5 * MIB + 1)
    assert "needs 5242881 bytes" in error.brief
    assert "give 5124K or more" in error.fix
    assert "needs more" in too_small("box", 4 * MIB, None).brief


@pytest.mark.timeout(120)
def test_a_shrink_killed_at_each_write(
    disks: Path, disk: StoredDisk, tmp_path: Path, preload: Path
) -> None:
    change(make_overlay(disks, disk))
    arguments = ["shrink", str(MIB + 65536), str(disks), str(tmp_path / "work")]
    done = subprocess.run(
        [sys.executable, str(DRIVER), *arguments],
        env={**os.environ, "LD_PRELOAD": str(preload)},
        capture_output=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["rounds"] > 8
