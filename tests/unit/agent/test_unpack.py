# SPDX-License-Identifier: Apache-2.0
"""Archives as a hostile guest would make them, and as ours are made."""

from __future__ import annotations

import io
import os
import resource
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from innkeeper.agent.transfer import archive
from innkeeper.agent.unpack import Policy, Unpacker
from innkeeper.errors import InnError, OutOfSpace, ProtocolError, UsageError

Make = Callable[[tarfile.TarFile], None]


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> Make:
    def make(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size, info.mode = kind, link, len(data), 0o755
        tar.addfile(info, io.BytesIO(data))

    return make


def packed(*entries: Make) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for make in entries:
            make(tar)
    return out.getvalue()


# As the API's pull takes archives.
STRICT = Policy(
    max_bytes=1 << 20, max_entries=100, mode_mask=0o755, owner_access=True, replace=False
)


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> Make:
    """A header alone."""

    def make(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, size
        assert tar.fileobj is not None
        tar.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))

    return make


def take(data: bytes, root: Path, name: str = "a", policy: Policy | None = None) -> None:
    unpacker = Unpacker(name, root, policy)
    try:
        unpacker.unpack(io.BytesIO(data))
        unpacker.commit()
    finally:
        unpacker.discard()


FOLDER = entry("a", tarfile.DIRTYPE)


@pytest.mark.parametrize("policy", [Policy(), STRICT])
@pytest.mark.parametrize(
    "entries",
    [
        (entry("b"),),
        (entry("../a"),),
        (entry("/etc/passwd"),),
        (entry("/a"),),
        (FOLDER, entry("a/../../b")),
        (FOLDER, entry("a/./b")),
        (FOLDER, entry("b/a")),
        (FOLDER, entry("a/x", tarfile.SYMTYPE, "/etc/passwd")),
        (FOLDER, entry("a/x", tarfile.SYMTYPE, "../outside")),
        (FOLDER, entry("a/x", tarfile.SYMTYPE, "d/../../outside")),
        (entry("a", tarfile.SYMTYPE, "../outside"),),
        (FOLDER, entry("a/x", tarfile.SYMTYPE, "y"), entry("a/x/z", data=b"through")),
        (FOLDER, entry("a/x", tarfile.SYMTYPE, "."), entry("a/x/x/z", data=b"through")),
        # Each link alone looks harmless; together they lead out, in either order.
        (
            FOLDER,
            entry("a/p", tarfile.DIRTYPE),
            entry("a/p/q", tarfile.DIRTYPE),
            entry("a/p/q/up", tarfile.SYMTYPE, "../.."),
            entry("a/out", tarfile.SYMTYPE, "p/q/up/../x"),
        ),
        (
            FOLDER,
            entry("a/p", tarfile.DIRTYPE),
            entry("a/p/q", tarfile.DIRTYPE),
            entry("a/out", tarfile.SYMTYPE, "p/q/up/../x"),
            entry("a/p/q/up", tarfile.SYMTYPE, "../.."),
        ),
        (FOLDER, entry("a/x", tarfile.SYMTYPE, "y"), entry("a/x", tarfile.DIRTYPE)),
        (FOLDER, entry("a/x", tarfile.SYMTYPE, "")),
        (FOLDER, entry("a/x", tarfile.LNKTYPE, "a/never-sent")),
        (FOLDER, entry("a/x", tarfile.LNKTYPE, "a")),
        (FOLDER, entry("a/x", tarfile.LNKTYPE, "../outside/secret")),
        (FOLDER, entry("a/x", tarfile.LNKTYPE, "/etc/passwd")),
        (FOLDER, entry("a/s", tarfile.SYMTYPE, "t"), entry("a/h", tarfile.LNKTYPE, "a/s")),
        (FOLDER, entry("a/x", tarfile.CHRTYPE)),
        (FOLDER, entry("a/x", tarfile.BLKTYPE)),
        (FOLDER, entry("a/x", tarfile.FIFOTYPE)),
        (entry("a", tarfile.CHRTYPE),),
        (entry("a"), entry("a")),
        (entry("a"), entry("a/b")),
        (entry("a/b"),),
        (),
        (FOLDER, header("a/x", tarfile.XHDTYPE, 8 << 30)),
        (FOLDER, header("a/x", tarfile.XGLTYPE, 100)),
        (FOLDER, header("a/x", tarfile.GNUTYPE_SPARSE, 512)),
        (FOLDER, header("a/x", tarfile.GNUTYPE_LONGNAME, 8 << 30)),
        (FOLDER, header("a/x", tarfile.GNUTYPE_LONGLINK, 8 << 30)),
        (FOLDER, header("a/x", size=-1)),
        (FOLDER, header("a/half", size=1 << 19)),
        (FOLDER, entry("a" + "/d" * 3000, tarfile.DIRTYPE)),
    ],
)
def test_what_must_not_be_is_refused(
    tmp_path: Path, entries: tuple[Make, ...], policy: Policy
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("kept")
    inside = tmp_path / "in"
    inside.mkdir()
    with pytest.raises(ProtocolError):
        take(packed(*entries), inside / "a", policy=policy)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "outside"]
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert {path.name for path in inside.iterdir()} <= {"a"}


def test_links_of_the_host_are_not_followed(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "a"
    outside.mkdir()
    (outside / "file").write_text("kept")
    root.mkdir()
    (root / "d").symlink_to(outside)
    (root / "f").symlink_to(outside / "file")
    with pytest.raises(ProtocolError):
        take(packed(FOLDER, entry("a/d/file", data=b"x")), root)
    with pytest.raises(InnError):
        take(packed(FOLDER, entry("a/f", data=b"x")), root)
    assert (outside / "file").read_text() == "kept"


def test_amounts_are_bounded(tmp_path: Path) -> None:
    many = packed(FOLDER, *(entry(f"a/{number}") for number in range(100)))
    with pytest.raises(ProtocolError, match="100 entries"):
        take(many, tmp_path / "a", policy=STRICT)
    large = packed(FOLDER, entry("a/x", data=bytes(1 << 20)), entry("a/y", data=b"x"))
    with pytest.raises(ProtocolError, match="1048576 bytes"):
        take(large, tmp_path / "b", policy=STRICT)
    with pytest.raises(ProtocolError, match="more than an archive"):
        take(packed(FOLDER) + bytes(2 << 20), tmp_path / "c")


def test_folders_and_links_cannot_take_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("innkeeper.agent.unpack._MEMORY_LIMIT_BYTES", 3000)
    links = (entry(f"a/{number}", tarfile.SYMTYPE, "t") for number in range(20))
    with pytest.raises(ProtocolError, match="remembers"):
        take(packed(FOLDER, *links), tmp_path / "a")
    assert list((tmp_path / "a").iterdir()) == []


def test_an_archive_without_its_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="half an archive"):
        take(packed(FOLDER)[:512], tmp_path / "a")


def test_what_comes_twice_is_replaced_or_refused(tmp_path: Path) -> None:
    for second in (entry("a/x", data=b"second"), entry("a/x", tarfile.SYMTYPE, "y")):
        twice = packed(FOLDER, entry("a/x", data=b"first"), second)
        take(twice, tmp_path / "a")
        with pytest.raises(ProtocolError, match="twice"):
            take(twice, tmp_path / "b", policy=STRICT)
        shutil.rmtree(tmp_path / "b")
    assert (tmp_path / "a" / "x").readlink() == Path("y")
    take(packed(FOLDER, entry("a/x", tarfile.SYMTYPE, "y"), entry("a/x")), tmp_path / "a")
    assert not (tmp_path / "a" / "x").is_symlink()


def test_dangerous_mode_bits_are_dropped(tmp_path: Path) -> None:
    def odd(name: str, kind: bytes, mode: int) -> Make:
        def make(tar: tarfile.TarFile) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = kind, mode, -(1 << 40)
            tar.addfile(info)

        return make

    data = packed(odd("a", tarfile.DIRTYPE, 0o007), odd("a/x", tarfile.REGTYPE, 0o7077))
    for name, policy, modes in (("b", Policy(), (0o007, 0o077)), ("c", STRICT, (0o705, 0o655))):
        take(data, tmp_path / name, policy=policy)
        folder = (tmp_path / name).stat()
        (tmp_path / name).chmod(0o755)
        file = (tmp_path / name / "x").stat()
        assert (folder.st_mode & 0o7777, file.st_mode & 0o7777) == modes
        assert file.st_mtime == 0


def test_a_header_cannot_take_memory(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    with pytest.raises(ProtocolError, match="too large"):
        take(info.tobuf(tarfile.GNU_FORMAT), tmp_path / "a")


@given(st.binary(max_size=2000), st.integers(0, 3000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_damaged_archives_are_errors(tmp_path: Path, noise: bytes, at: int) -> None:
    whole = packed(FOLDER, entry("a/b", data=b"text" * 300))
    data = whole[:at] + noise
    try:
        take(data, tmp_path / "a")
    except InnError:
        return
    assert (tmp_path / "a").is_dir()


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    data = packed(entry("a", data=b"new" * 1000))
    (tmp_path / "a").write_text("old")
    with pytest.raises(ProtocolError):
        take(data[:1500], tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    take(data, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"new" * 1000


def test_a_full_disk_of_the_host_is_said(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutOfSpace):
            take(packed(entry("a", data=b"x" * 5000)), tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub" / ("long" * 40)).mkdir(parents=True)
    (tree / "sub" / ("long" * 40) / ("name" * 50)).write_bytes(os.urandom(700_001))
    (tree / "empty").touch()
    (tree / "run").write_text("#!/bin/sh\n")
    (tree / "run").chmod(0o775)
    (tree / "link").symlink_to("sub")
    (tree / "hard").hardlink_to(tree / "run")
    (tree / "sub").chmod(0o555)
    os.utime(tree / "run", (1000, 2000))
    os.utime(tree / "sub", (1000, 3000))
    take(b"".join(archive(tree, "a")), tmp_path / "copy")
    copy = tmp_path / "copy"
    for path in sorted(tree.rglob("*")):
        twin = copy / path.relative_to(tree)
        assert twin.lstat().st_mode == path.lstat().st_mode
        assert int(twin.lstat().st_mtime) == int(path.lstat().st_mtime)
        assert not path.is_file() or twin.read_bytes() == path.read_bytes()
    assert (copy / "link").readlink() == Path("sub")
    assert (copy / "hard").samefile(copy / "run")
    (tree / "sub").chmod(0o755)
    (copy / "sub").chmod(0o755)


def test_what_is_no_file_is_not_sent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError):
        b"".join(archive(tmp_path / "fifo", "a"))
    (tmp_path / "file").touch()
    data = b"".join(archive(tmp_path, "a", skip_special=True))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["a", "a/file"]
