# SPDX-License-Identifier: Apache-2.0
"""Tar streams: what is sent arrives; of what a hostile guest sends, nothing gets out."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from innkeeper.api.archive import Limits, drain, read_file, read_tree, write_tree
from innkeeper.errors import ProtocolError


def limits(*, max_bytes: int = 1 << 20, max_entries: int = 100) -> Limits:
    return Limits(max_bytes=max_bytes, max_entries=max_entries)


def entry(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, size, 0o4777
    return info.tobuf(tarfile.GNU_FORMAT)


def extract(tmp_path: Path, *parts: bytes, end: bytes = bytes(1024)) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    read_tree(io.BytesIO(b"".join(parts) + end), root, limits())
    return root


def test_a_tree_arrives_with_modes_times_and_links(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    file = source / "sub" / ("long" * 50)
    file.write_bytes(b"content" * 1000)
    file.chmod(0o750)
    os.utime(file, (1_000_000_000, 1_000_000_000))
    (source / "link").symlink_to("sub")
    (source / "twin").hardlink_to(file)
    os.mkfifo(source / "fifo")
    stream = io.BytesIO()
    write_tree(stream, source, ".")
    stream.seek(0)
    root = tmp_path / "root"
    root.mkdir()
    read_tree(stream, root, limits())
    drain(stream)
    copy = root / "sub" / file.name
    assert copy.read_bytes() == file.read_bytes()
    assert copy.stat().st_mode == file.stat().st_mode
    assert copy.stat().st_mtime == 1_000_000_000
    assert (root / "link").readlink() == Path("sub")
    assert (root / "twin").samefile(copy)
    assert not (root / "fifo").exists()


@pytest.mark.parametrize(
    "parts",
    [
        (entry("../escape"),),
        (entry("/etc/escape"),),
        (entry("a/../../escape"),),
        (entry("link", tarfile.SYMTYPE, link="/etc/passwd"),),
        (entry("link", tarfile.SYMTYPE, link="../outside"),),
        # Each link alone looks harmless; together they lead out.
        (
            entry("p/q/", tarfile.DIRTYPE),
            entry("p/q/up", tarfile.SYMTYPE, link="../.."),
            entry("out", tarfile.SYMTYPE, link="p/q/up/../x"),
        ),
        (entry("link", tarfile.SYMTYPE, link="sub"), entry("link/file")),
        (entry("file"), entry("file")),
        (entry("file"), entry("file/below")),
        (entry("hard", tarfile.LNKTYPE, link="/etc/passwd"),),
        (entry("hard", tarfile.LNKTYPE, link="never-sent"),),
        (entry("device", tarfile.BLKTYPE),),
        (entry("fifo", tarfile.FIFOTYPE),),
        (entry("x", tarfile.XHDTYPE, size=8 << 30),),
        (entry("x", tarfile.GNUTYPE_LONGNAME, size=8 << 30),),
        (entry("large", size=2 << 20), bytes(2 << 20)),
        (b"no tar at all" * 100,),
        (entry("half", size=600), b"only this"),
        (entry("/".join(["d"] * 40)), b"\xff" * 512),
    ],
)
def test_nothing_hostile_is_taken(tmp_path: Path, parts: tuple[bytes, ...]) -> None:
    with pytest.raises(ProtocolError):
        extract(tmp_path, *parts)
    assert {path.name for path in tmp_path.iterdir()} == {"root"}


def test_an_archive_without_its_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError):
        extract(tmp_path, entry("file"), end=b"")


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="100 entries"):
        extract(tmp_path, *(entry(f"f{n}") for n in range(101)))


def test_dangerous_mode_bits_are_dropped(tmp_path: Path) -> None:
    root = extract(tmp_path, entry("file"), entry("folder/", tarfile.DIRTYPE))
    assert (root / "file").stat().st_mode & 0o7777 == 0o755
    assert (root / "folder").stat().st_mode & 0o7777 == 0o755


def test_a_file_is_one_regular_file(tmp_path: Path) -> None:
    content = entry("name/says/nothing", size=3) + b"abc".ljust(512, b"\0") + bytes(1024)
    read_file(io.BytesIO(content), tmp_path / "file", limits())
    assert (tmp_path / "file").read_bytes() == b"abc"
    link = entry("file", tarfile.SYMTYPE, link="/etc/passwd") + bytes(1024)
    with pytest.raises(ProtocolError):
        read_file(io.BytesIO(link), tmp_path / "other", limits())


def test_an_endless_trailer_is_refused() -> None:
    with pytest.raises(ProtocolError):
        drain(io.BytesIO(bytes(2 << 20)))
