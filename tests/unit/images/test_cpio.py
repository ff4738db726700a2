# SPDX-License-Identifier: Apache-2.0
"""The initramfs writer, read back by the format's description and by cpio(1)."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.errors import ImageError
from innkeeper.images.cpio import Archive


def sample() -> Archive:
    archive = Archive()
    archive.file("bin/tool", b"#!/bin/sh\n", 0o755)
    archive.folder("home/guest", 0o700, uid=1000, gid=1000)
    archive.file("a/c", b"below a")
    archive.file("a-b", b"")
    archive.symlink("sbin", "bin")
    archive.device("dev/console", 0o600, 5, 1)
    return archive


def parse(data: bytes) -> list[tuple[str, int, int, bytes]]:
    """Name, mode, owner and content of the members, by the format's own description."""
    members: list[tuple[str, int, int, bytes]] = []
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        field = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name_end = at + 110 + field[11]
        name = data[at + 110 : name_end - 1].decode()
        start = (name_end + 3) // 4 * 4
        if name == "TRAILER!!!":
            return members
        members.append((name, field[1], field[2], data[start : start + field[6]]))
        at = (start + field[6] + 3) // 4 * 4


def test_members_come_back_with_folders_before_their_content() -> None:
    members = parse(sample().to_bytes())
    names = [name for name, *_ in members]
    assert names == [
        *(".", "a", "a/c", "a-b", "bin", "bin/tool", "dev", "dev/console"),
        *("home", "home/guest", "sbin"),
    ]
    by_name = {name: rest for name, *rest in members}
    assert by_name["bin/tool"] == [stat.S_IFREG | 0o755, 0, b"#!/bin/sh\n"]
    assert by_name["home/guest"] == [stat.S_IFDIR | 0o700, 1000, b""]
    assert by_name["sbin"] == [stat.S_IFLNK | 0o777, 0, b"bin"]


def test_same_content_gives_same_bytes_in_any_order() -> None:
    one, two = Archive(), Archive()
    for archive, names in ((one, ("x/1", "y")), (two, ("y", "x/1"))):
        for name in names:
            archive.file(name, name.encode())
    assert one.to_bytes() == two.to_bytes()


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_reads_it(tmp_path: Path) -> None:
    data = sample().to_bytes()
    done = subprocess.run(["cpio", "-tv"], input=data, capture_output=True, check=True)
    assert b"bin/tool" in done.stdout
    assert b"sbin -> bin" in done.stdout
    assert b"5,   1" in done.stdout
    argv = ["cpio", "-id", "--quiet", "a/*", "bin/*"]
    subprocess.run(argv, input=data, check=True, cwd=tmp_path)
    assert (tmp_path / "a" / "c").read_bytes() == b"below a"
    assert (tmp_path / "bin" / "tool").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    "name", ["", "/etc", "a//b", "a/../b", "./a", "a\0b", "TRAILER!!!", "x" * 5000]
)
def test_names_that_do_not_belong(name: str) -> None:
    with pytest.raises(ImageError):
        Archive().file(name, b"")


def test_nothing_goes_below_a_file() -> None:
    archive = Archive()
    archive.file("a", b"")
    with pytest.raises(ImageError, match="no folder"):
        archive.file("a/b", b"")


@given(
    st.dictionaries(
        st.text("abc-", min_size=1, max_size=8).map(lambda name: f"d/{name}"),
        st.binary(max_size=40),
        max_size=12,
    )
)
def test_any_content_comes_back(files: dict[str, bytes]) -> None:
    archive = Archive()
    for name, data in files.items():
        archive.file(name, data)
    members = parse(archive.to_bytes())
    assert {name: data for name, mode, _, data in members if stat.S_ISREG(mode)} == files
