# SPDX-License-Identifier: Apache-2.0
"""What is asked of a guest that works on a disk, and what its words mean, by value."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.keeper import worker
from innkeeper.keeper.worker import (
    DAMAGED,
    DONE,
    FAILED,
    OTHER_KIND,
    TOO_SMALL,
    explain,
    read_answer,
    resize_script,
)
from innkeeper.model.disk import FS_TYPES, FsType
from innkeeper.model.sizes import GIB, MIB


def test_answers() -> None:
    output = b"e2fsck 1.47\ninn:kind=ext4\ninn:minimum=1234567\n\nresize2fs: \x1b[1mno\n"
    worked = read_answer(TOO_SMALL, output)
    assert (worked.code, worked.kind, worked.minimum) == (TOO_SMALL, "ext4", 1234567)
    assert worked.lines == ("e2fsck 1.47", "resize2fs:  [1mno")
    assert read_answer(DONE, b"").kind == ""
    assert read_answer(127, b"sh: od: not found\n").code == FAILED
    assert read_answer(DONE, b"inn:minimum=" + b"9" * 40).minimum is None


@given(st.integers(-300, 300), st.binary(max_size=300))
def test_any_answer_is_bounded(code: int, output: bytes) -> None:
    worked = read_answer(code, b"inn:kind=" + output)
    assert worked.code in (DONE, TOO_SMALL, OTHER_KIND, DAMAGED, FAILED)
    assert len(worked.kind) <= 32
    assert len(worked.lines) <= 8
    assert all(line.isprintable() and len(line) <= 200 for line in worked.lines)


@pytest.mark.parametrize("fstype", FS_TYPES)
@pytest.mark.parametrize("grow", [True, False])
def test_scripts_are_scripts(fstype: FsType, grow: bool) -> None:
    script = resize_script(fstype, grow=grow, size=64 * MIB)
    assert script.startswith(f"fstype={fstype}; size=67108864\n")
    subprocess.run(["busybox", "sh", "-n"], input=script.encode(), check=True)


def test_errors_say_what_is_wrong() -> None:
    damaged = explain("box", read_answer(DAMAGED, b"inode 12: bad\n"), doing="shrink")
    assert damaged.brief == "cannot shrink the disk 'box': its file system is damaged"
    assert damaged.evidence == ("inode 12: bad",)
    assert damaged.fix
    other = explain("box", read_answer(OTHER_KIND, b"inn:kind=btrfs\n"), doing="shrink")
    assert "there is btrfs on it" in other.brief


def test_the_disk_of_the_worker() -> None:
    over = json.loads(
        worker._blockdev(Path("/d/o"), "qcow2", (Path("/d/i"), "raw"), keeps_blocks=False)
    )
    assert over["backing"] == {
        "driver": "raw",
        "read-only": True,
        "file": {"driver": "file", "filename": "/d/i"},
    }
    alone = json.loads(worker._blockdev(Path("/d/i"), "qcow2", None, keeps_blocks=True))
    assert alone["backing"] is None
    assert alone["discard"] == alone["file"]["discard"] == "ignore"


def test_large_disks_get_more_memory() -> None:
    assert worker._memory_bytes(GIB) == 512 * MIB
    assert worker._memory_bytes(4096 * GIB) == 2 * GIB
    assert worker._memory_bytes(1 << 50) == 8 * GIB
