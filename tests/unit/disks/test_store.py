# SPDX-License-Identifier: Apache-2.0
"""Stored disks: made whole or not at all, held, and never through a link."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from innkeeper.disks import store
from innkeeper.disks.store import (
    adopt_disk,
    disk_names,
    disk_path,
    find_disk,
    hold_disk,
    is_held,
    make_disk,
    measure_disk,
    remove_disk,
    sweep_disks,
)
from innkeeper.errors import DiskError, InnError, NameInUse, OutOfSpace, UnknownName, UsageError
from innkeeper.model.disk import USER_CHOSEN_ATTRIBUTE
from innkeeper.model.sizes import GIB, MIB

SIZE = 16 * MIB


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    return tmp_path / "disks"


def attribute(path: Path) -> bytes | None:
    try:
        return os.getxattr(path, USER_CHOSEN_ATTRIBUTE)
    except OSError:
        return None


def has_attributes(folder: Path) -> bool:
    probe = folder / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.probe", b"1")
    except OSError:
        return False
    finally:
        probe.unlink()
    return True


def test_a_disk_of_a_given_size_has_all_its_blocks(disks: Path, tmp_path: Path) -> None:
    disk = make_disk(disks, "data", size_bytes=SIZE + 5, fstype="ext4")
    assert find_disk(disks, "data") == disk
    assert disk_names(disks) == ("data",)
    size = measure_disk(disks, disk)
    assert size.size_bytes == SIZE
    assert size.taken_bytes >= SIZE
    assert len(disk.serial) == 16
    file = disk_path(disks, "data")
    assert attribute(file) == (b"1" if has_attributes(tmp_path) else None)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (disks, file.parent, file)]
    assert modes == [0o700, 0o700, 0o600]
    assert sorted(path.name for path in disks.rglob("*")) == ["data", "disk.img", "disk.json"]


def test_a_disk_without_a_size_takes_what_is_free_and_no_block(
    disks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "disk_free_bytes", lambda _: 2 * GIB + 777)
    disk = make_disk(disks, "data", size_bytes=None, fstype="btrfs")
    size = measure_disk(disks, disk)
    assert size.size_bytes == int((2 * GIB + 777) * 0.9) // 4096 * 4096
    assert size.taken_bytes < 64 * 1024
    assert attribute(disk_path(disks, "data")) is None
    monkeypatch.setattr(store, "disk_free_bytes", lambda _: GIB)
    with pytest.raises(OutOfSpace):
        make_disk(disks, "more", size_bytes=None, fstype="ext4")
    assert disk_names(disks) == ("data",)


def test_more_than_there_is_leaves_nothing(disks: Path) -> None:
    free = os.statvfs(disks.parent)
    with pytest.raises(OutOfSpace):
        make_disk(disks, "huge", size_bytes=(free.f_bavail + 1024) * free.f_frsize, fstype="ext4")
    assert list(disks.iterdir()) == []


def test_a_file_becomes_a_disk_and_stays_as_it_is(disks: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    with raw.open("wb") as file:
        file.truncate(8 * MIB)
        file.seek(5 * MIB)
        file.write(b"content")
    qcow2 = tmp_path / "mine.qcow2"
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(qcow2)]
    subprocess.run(convert, check=True)
    one = adopt_disk(disks, "one", raw, fstype="ext4")
    two = adopt_disk(disks, "two", qcow2, fstype="ext4")
    assert (one.file_format, two.file_format) == ("raw", "qcow2")
    assert disk_path(disks, "one").read_bytes() == raw.read_bytes()
    assert disk_path(disks, "two").read_bytes() == qcow2.read_bytes()
    assert measure_disk(disks, two).size_bytes == 8 * MIB
    assert measure_disk(disks, one).taken_bytes < MIB
    assert stat.S_IMODE(disk_path(disks, "one").stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="there is a disk"):
        adopt_disk(disks, "one", raw, fstype="ext4")


def test_files_that_are_no_disks(disks: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(MIB))
    hostile = tmp_path / "hostile.qcow2"
    make = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(secret), "-F", "raw"]
    subprocess.run([*make, str(hostile)], check=True)
    odd = tmp_path / "odd"
    odd.write_bytes(b"x" * 1000)
    empty = tmp_path / "empty"
    empty.touch()
    for path in (hostile, odd, empty, tmp_path):
        with pytest.raises(DiskError):
            adopt_disk(disks, "no", path, fstype="ext4")
    with pytest.raises(InnError, match="No such file"):
        adopt_disk(disks, "no", tmp_path / "none", fstype="ext4")
    assert disk_names(disks) == ()


def test_one_writer_or_many_readers(disks: Path) -> None:
    make_disk(disks, "data", size_bytes=SIZE, fstype="ext4", allocate=False)
    with hold_disk(disks, "data", shared=True), hold_disk(disks, "data", shared=True):
        assert is_held(disks, "data")
        with pytest.raises(NameInUse):
            hold_disk(disks, "data", shared=False)
    with hold_disk(disks, "data", shared=False):
        for refused in (
            lambda: hold_disk(disks, "data", shared=True),
            lambda: remove_disk(disks, "data"),
        ):
            with pytest.raises(NameInUse):
                refused()
    assert not is_held(disks, "data")
    remove_disk(disks, "data")
    with pytest.raises(UnknownName, match="data") as caught:
        hold_disk(disks, "data", shared=True)
    assert "inn disk create data" in caught.value.fix


@pytest.mark.parametrize("which", ["disks", "disks/data", "disks/data/disk.img"])
def test_links_are_refused(disks: Path, tmp_path: Path, which: str) -> None:
    make_disk(disks, "data", size_bytes=SIZE, fstype="ext4", allocate=False)
    path = tmp_path / which
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(DiskError, match="a link") as caught:
        find_disk(disks, "data")
    assert str(path) in caught.value.brief
    if which == "disks":
        with pytest.raises(DiskError, match="a link"):
            make_disk(disks, "more", size_bytes=SIZE, fstype="ext4")


@pytest.mark.parametrize("which", ["disks", "disks/data", "disks/data/disk.img"])
def test_what_others_could_write_is_refused(disks: Path, tmp_path: Path, which: str) -> None:
    make_disk(disks, "data", size_bytes=SIZE, fstype="ext4", allocate=False)
    (tmp_path / which).chmod(0o777)
    with pytest.raises(DiskError, match="other users can write"):
        find_disk(disks, "data")


def test_damage_is_named(disks: Path) -> None:
    make_disk(disks, "data", size_bytes=SIZE, fstype="ext4", allocate=False)
    description = disks / "data/disk.json"
    for text in (b"", b"{}", b'{"name": "other", "serial": "1"}', b"[" * 100_000):
        description.write_bytes(text)
        with pytest.raises(DiskError, match=r"disk\.json"):
            find_disk(disks, "data")
    disk_path(disks, "data").unlink()
    with pytest.raises(DiskError, match="lost its file"):
        find_disk(disks, "data")


# Dies at the given one of those calls that change something; those before it happened.
KILLED = """
import os, signal, sys
from pathlib import Path
from innkeeper.disks.store import adopt_disk, make_disk
left = int(sys.argv[2])
CHANGES = ("os.mkdir", "os.rename", "os.truncate", "os.setxattr", "os.remove", "os.rmdir", "open")
def count(event, arguments):
    global left
    if event in CHANGES and (event != "open" or arguments[2] & (os.O_CREAT | os.O_WRONLY)):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
if len(sys.argv) > 3:
    adopt_disk(Path(sys.argv[1]), "data", Path(sys.argv[3]), fstype="ext4")
else:
    make_disk(Path(sys.argv[1]), "data", size_bytes=16 << 20, fstype="ext4")
"""


@pytest.mark.parametrize("adopts", [False, True])
def test_killed_at_each_change(disks: Path, tmp_path: Path, adopts: bool) -> None:
    source = tmp_path / "raw"
    source.write_bytes(b"x" * SIZE)
    arguments = [str(source)] if adopts else []
    for moment in range(100):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(disks), str(moment), *arguments], check=False
        )
        if disk_names(disks):
            # Whole, even where it was killed while it tidied up.
            assert measure_disk(disks, find_disk(disks, "data")).size_bytes == SIZE
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        for name in disk_names(disks):
            remove_disk(disks, name)
    assert moment > 4
    assert disk_names(disks) == ("data",)
    # The one that succeeded swept what the others had left.
    assert [path.name for path in disks.iterdir()] == ["data"]
    assert sweep_disks(disks) == []
