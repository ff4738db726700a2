# SPDX-License-Identifier: Apache-2.0
"""Headers of qcow2 files, as QEMU's own tool writes them and as nobody should."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path

import pytest

from innkeeper.disks.qcow2 import HEADER_BYTES, is_qcow2, qcow2_size
from innkeeper.errors import DiskError


def head_of(folder: Path, *options: str, size: str = "64M") -> bytes:
    path = folder / "disk.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), size],
        check=True,
        cwd=folder,
    )
    return path.read_bytes()[:HEADER_BYTES]


@pytest.mark.parametrize("version", ["0.10", "1.1"])
def test_what_qemu_img_makes(tmp_path: Path, version: str) -> None:
    head = head_of(tmp_path, "-o", f"compat={version}")
    assert is_qcow2(head)
    assert qcow2_size(head, source="x") == 64 << 20


def test_one_that_rests_on_another_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    head = head_of(tmp_path, "-b", "secret", "-F", "raw")
    with pytest.raises(DiskError, match="rests on another file"):
        qcow2_size(head, source="x")


def test_one_whose_content_is_elsewhere(tmp_path: Path) -> None:
    head = head_of(tmp_path, "-o", "data_file=content,data_file_raw=on")
    with pytest.raises(DiskError, match="in another file"):
        qcow2_size(head, source="x")


@pytest.mark.parametrize(
    ("offset", "layout", "value", "why"),
    [
        (4, ">I", 4, "version is 4"),
        (24, ">Q", 0, "size of 0"),
        (24, ">Q", 1 << 60, "is none"),
        (24, ">Q", 513, "is none"),
        (32, ">I", 1, "encrypted"),
        (72, ">Q", 2, "corrupt"),
        (72, ">Q", 1 << 40, "later version"),
    ],
)
def test_what_cannot_be_used(
    tmp_path: Path, offset: int, layout: str, value: int, why: str
) -> None:
    head = bytearray(head_of(tmp_path))
    struct.pack_into(layout, head, offset, value)
    with pytest.raises(DiskError, match=why):
        qcow2_size(bytes(head), source="x")


def test_garbage_is_refused_and_nothing_else(tmp_path: Path) -> None:
    good = head_of(tmp_path)
    chance = random.Random(4)
    for _ in range(2000):
        head = bytearray(good[: chance.randrange(HEADER_BYTES + 1)])
        for _ in range(3):
            if head:
                head[chance.randrange(len(head))] = chance.randrange(256)
        try:
            assert qcow2_size(bytes(head), source="x") > 0
        except DiskError:
            continue
