# SPDX-License-Identifier: Apache-2.0
"""Root file systems: the commands by value, and real ones made twice."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from innkeeper.images.mapped import has_range, root_prefix
from innkeeper.images.roots import make_argv, make_root, read_head, root_type_of
from innkeeper.model.recipe import RootFormat
from innkeeper.system.process import find_program

UUID = "12345678-1234-5678-9abc-123456789abc"
EPOCH = 1686355200


def fill(tree: Path) -> Path:
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "motd").write_text("hello\n" * 2000)
    (tree / "etc" / "link").symlink_to("motd")
    os.link(tree / "etc" / "motd", tree / "etc" / "again")
    for number in range(300):
        (tree / f"file-{number}").write_bytes(bytes([number % 256]) * number)
    os.utime(tree / "file-7", (EPOCH - 5, EPOCH - 5))
    return tree


@pytest.mark.parametrize(
    ("kind", "program"), [("erofs", "mkfs.erofs"), ("squashfs", "mksquashfs"), ("ext4", "mke2fs")]
)
def test_the_same_content_gives_the_same_bytes(
    tmp_path: Path, kind: RootFormat, program: str
) -> None:
    if find_program(program) is None:
        pytest.skip(f"{program} is not installed on this host")
    digests = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        out = folder / "root"
        tree = fill(folder / "tree")
        make_root(kind, tree, out, fs_uuid=UUID, epoch=EPOCH)
        digests.append(hashlib.sha256(out.read_bytes()).hexdigest())
        assert root_type_of(read_head(out)) == kind
        (tree / "file-8").read_bytes()
    assert digests[0] == digests[1]


def test_an_ext4_root_has_nothing_to_repair(tmp_path: Path) -> None:
    import subprocess

    out = tmp_path / "root"
    make_root("ext4", fill(tmp_path / "tree"), out, fs_uuid=UUID, epoch=EPOCH)
    done = subprocess.run(
        [str(find_program("e2fsck")), "-fn", str(out)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout
    stat = subprocess.run(
        [str(find_program("debugfs")), "-R", "stat file-7", str(out)],
        capture_output=True,
        check=True,
    ).stdout
    assert stat.count(f"{EPOCH - 5:x}".encode()) == 3


def test_the_commands_by_value() -> None:
    tree, out = Path("/t"), Path("/o")
    assert make_argv("erofs", tree, out, fs_uuid=UUID, size_bytes=0) == [
        *("mkfs.erofs", "--quiet", "-d1", f"-U{UUID}", "/o", "/t")
    ]
    assert make_argv("ext4", tree, out, fs_uuid=UUID, size_bytes=1 << 20)[-3:] == [
        *("/t", "/o", "256")
    ]


@pytest.mark.parametrize("head", [b"", b"\0" * 70000, b"QFI\xfb" + bytes(70000), b"hsq"])
def test_what_is_no_root(head: bytes) -> None:
    assert root_type_of(head) is None


def test_root_needs_no_ids_and_a_user_does() -> None:
    assert "--map-auto" not in root_prefix(0)
    assert "--map-auto" in root_prefix(1000)
    assert root_prefix(0)[-1] == root_prefix(1000)[-1] == "--"


@pytest.mark.parametrize(
    ("table", "enough"),
    [
        ("me:100000:65536\n", True),
        ("1000:100000:65536\n", True),
        ("me:100000:1000\n", False),
        ("you:100000:65536\n", False),
        ("", False),
        ("me:x:y\nme\n", False),
    ],
)
def test_ids_of_a_user(table: str, enough: bool) -> None:
    assert has_range(table, "me", 1000) is enough
