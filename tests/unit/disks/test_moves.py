# SPDX-License-Identifier: Apache-2.0
"""Archives as files and disks of archives: whole, or what was there before."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from disk_archives import MIB, chromeos, disk_content, ours, write_disk, zipped

from innkeeper.disks.exporting import check_target, export_archive
from innkeeper.disks.frames import DiskHead
from innkeeper.disks.importing import import_disk
from innkeeper.disks.inspecting import inspect_archive, inspect_stream
from innkeeper.disks.moving import Moving, told
from innkeeper.disks.reading import Given
from innkeeper.disks.store import (
    adopt_disk,
    disk_names,
    disk_path,
    find_disk,
    hold_disk,
    make_disk,
    measure_disk,
)
from innkeeper.errors import DiskError, HostError, NameInUse, OutOfSpace, UsageError

CONTENT = disk_content(3 * MIB, seed=21)
DRIVER = Path(__file__).parents[1] / "props" / "break_disk.py"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return write_disk(tmp_path / "disk", CONTENT)


@pytest.fixture
def archive(disk: Path, tmp_path: Path) -> Path:
    path = tmp_path / "archive.zst"
    path.write_bytes(ours(disk, name="web", fstype="btrfs"))
    return path


def export(disk: Path, target: Path) -> None:
    head = DiskHead(size_bytes=disk.stat().st_size, data_bytes=0)
    export_archive(disk, head, target, moving=Moving("test"))


def take(
    disks: Path,
    path: Path | None,
    name: str = "box",
    *,
    replace: bool = False,
    force: bool = False,
) -> None:
    import_disk(disks, name, Given(path), replace=replace, force=force, moving=Moving("test"))


def stored(disks: Path, name: str = "box") -> bytes:
    return disk_path(disks, name).read_bytes()


def test_sha256sum_checks_an_export(disk: Path, tmp_path: Path) -> None:
    export(disk, tmp_path / "a b.zst")
    assert sorted(path.name for path in tmp_path.glob("*a b*")) == ["a b.zst", "a b.zst.sha256"]
    command = ["sha256sum", "-c", "a b.zst.sha256"]
    assert subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
    for file in tmp_path.glob("a b*"):
        assert file.stat().st_mode & 0o777 == 0o600


def test_places_where_no_archive_goes(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.touch()
    for target in (there, tmp_path, tmp_path / "no" / "folder", tmp_path / "a\nb"):
        with pytest.raises(UsageError):
            check_target(target, replace=False)
    check_target(there, replace=True)


def test_a_full_disk_leaves_nothing_and_the_old_archive(disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "target" / "archive"
    target.parent.mkdir()
    target.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OutOfSpace, match="no space left"):
            export(disk, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(target.parent) == ["archive"]  # noqa: PTH208 - hidden files too
    assert target.read_bytes() == b"old"


def test_a_cancelled_export_leaves_nothing(disk: Path, tmp_path: Path) -> None:
    target = tmp_path / "target" / "archive"
    target.parent.mkdir()

    class Cancelling(Moving):
        def __setattr__(self, name: str, value: object) -> None:
            if name == "done_bytes" and value:
                raise KeyboardInterrupt
            super().__setattr__(name, value)

    head = DiskHead(size_bytes=len(CONTENT), data_bytes=0)
    with pytest.raises(KeyboardInterrupt):
        export_archive(disk, head, target, moving=Cancelling("test"))
    assert os.listdir(target.parent) == []  # noqa: PTH208


def test_progress_only_grows_and_is_told_at_regular_times(disk: Path, tmp_path: Path) -> None:
    moving, seen = Moving("test"), list[int]()
    head = DiskHead(size_bytes=len(CONTENT), data_bytes=0)
    with told(moving, lambda now: seen.append(now.done_bytes), every_s=0.001):
        export_archive(disk, head, tmp_path / "archive", moving=moving)
    assert seen == sorted(seen)
    assert seen[-1] == moving.total_bytes == len(CONTENT)
    assert len(seen) > 2


def test_a_disk_of_an_archive(archive: Path, disks: Path) -> None:
    take(disks, archive)
    assert stored(disks) == CONTENT
    made = find_disk(disks, "box")
    assert (made.fstype, made.file_format) == ("btrfs", "raw")
    assert disk_path(disks, "box").stat().st_mode & 0o777 == 0o600
    assert measure_disk(disks, made).taken_bytes < len(CONTENT)
    with pytest.raises(UsageError, match="there is a disk"):
        take(disks, archive)


def test_a_disk_of_stdin(
    archive: Path, disks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = subprocess.Popen(["cat", str(archive)], stdout=subprocess.PIPE)
    assert child.stdout is not None

    class Stdin:
        buffer = child.stdout

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stdin", Stdin())
    with child:
        take(disks, None)
    assert stored(disks) == CONTENT


def test_a_replaced_disk_keeps_its_serial_and_its_space(archive: Path, disks: Path) -> None:
    old = make_disk(disks, "box", size_bytes=16 * MIB, fstype="ext4")
    take(disks, archive, replace=True)
    new = find_disk(disks, "box")
    assert (new.serial, new.fstype) == (old.serial, "btrfs")
    size = measure_disk(disks, new)
    assert size.taken_bytes >= size.size_bytes == len(CONTENT)
    assert os.listdir(disks) == ["box"]  # noqa: PTH208


def test_a_damaged_archive_leaves_the_old_disk(archive: Path, disks: Path, disk: Path) -> None:
    adopt_disk(disks, "box", disk, fstype="ext4")
    old = find_disk(disks, "box")
    whole = archive.read_bytes()
    for data in (whole[:-100], whole[:5000], whole[:3000] + b"\xff" + whole[3001:], b"x" * 5000):
        archive.write_bytes(data)
        with pytest.raises(DiskError):
            take(disks, archive, replace=True)
        assert find_disk(disks, "box") == old
        assert stored(disks) == CONTENT
        assert os.listdir(disks) == ["box"]  # noqa: PTH208


def test_a_full_disk_leaves_the_old_disk(archive: Path, disks: Path, disk: Path) -> None:
    adopt_disk(disks, "box", disk, fstype="ext4")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OutOfSpace):
            take(disks, archive, replace=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert stored(disks) == CONTENT
    assert os.listdir(disks) == ["box"]  # noqa: PTH208


def test_some_space_of_the_host_stays_free(
    archive: Path, disks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("innkeeper.disks.sink.disk_free_bytes", lambda _folder: 65 * MIB)
    with pytest.raises(OutOfSpace, match="are needed"):
        take(disks, archive)
    assert disk_names(disks) == ()


def test_a_disk_in_use_is_not_replaced_unless_that_is_forced(archive: Path, disks: Path) -> None:
    make_disk(disks, "box", size_bytes=16 * MIB, fstype="ext4", allocate=False)
    with hold_disk(disks, "box", shared=True):
        with pytest.raises(NameInUse):
            take(disks, archive, replace=True)
        with disk_path(disks, "box").open("rb") as open_before:
            take(disks, archive, replace=True, force=True)
            assert os.fstat(open_before.fileno()).st_size == 16 * MIB
    assert stored(disks) == CONTENT


def test_a_qcow2_stays_one_and_what_rests_on_others_is_refused(
    disk: Path, disks: Path, tmp_path: Path
) -> None:
    qcow2 = tmp_path / "disk.qcow2"
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(disk), str(qcow2)]
    subprocess.run(convert, check=True)
    take(disks, qcow2)
    made = find_disk(disks, "box")
    assert made.file_format == "qcow2"
    assert measure_disk(disks, made).size_bytes == len(CONTENT)
    over = tmp_path / "over.qcow2"
    make = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(qcow2), "-F", "qcow2", str(over)]
    subprocess.run(make, check=True)
    with pytest.raises(DiskError, match="rests on another file"):
        take(disks, over, "other")
    (tmp_path / "disk.qcow2.sha256").write_text(f"{'0' * 64}  disk.qcow2\n")
    with pytest.raises(DiskError, match="digest beside it"):
        take(disks, qcow2, "other")
    assert disk_names(disks) == ("box",)


class Counting(io.FileIO):
    """A file that counts what is read of it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size) or b""
        self.count += len(data)
        return data


def large_archives(folder: Path) -> Iterator[tuple[Path, dict[str, object]]]:
    """Archives that do not compress well, and what they say."""
    made = write_disk(folder / "large", os.urandom(6 * MIB))
    path = folder / "ours"
    path.write_bytes(ours(made, name="web", fstype="btrfs"))
    digests = b"".join(
        hashlib.sha256(made.read_bytes()[at : at + MIB]).digest() for at in range(0, 6 * MIB, MIB)
    )
    content = hashlib.sha256(digests).hexdigest()
    yield (
        path,
        {"made_by": "innkeeper", "name": "web", "fstype": "btrfs", "content_digest": content},
    )
    for first in (True, False):
        path = folder / f"chromeos-{first}"
        path.write_bytes(chromeos(made.read_bytes(), metadata_first=first))
        yield path, {"made_by": "ChromeOS", "vm_type": "termina"}
    yield zipped(folder / "zip", made.read_bytes()), {"kind": "zip", "name": "vm_disk.img"}


def test_looking_at_an_archive_reads_less_than_a_hundredth(tmp_path: Path) -> None:
    for path, said in large_archives(tmp_path):
        with Counting(path) as file:
            info = inspect_stream(file, str(path))
            assert file.count < path.stat().st_size / 100, (path, file.count)
        assert info.size_bytes == 6 * MIB, path
        for key, value in said.items():
            assert getattr(info, key) == value, (path, key)


def test_looking_at_other_things(disk: Path, tmp_path: Path) -> None:
    assert inspect_archive(disk).kind == "raw"
    broken = tmp_path / "broken"
    broken.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(DiskError, match="damaged"):
        inspect_archive(broken)
    with pytest.raises(HostError):
        inspect_archive(tmp_path / "none")


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("verb", "before"), [("export", False), ("export", True), ("import", False), ("import", True)]
)
def test_killed_at_each_write(
    verb: str, before: bool, archive: Path, tmp_path: Path, preload: Path
) -> None:
    old = tmp_path / "before"
    if before and verb == "import":
        other = write_disk(tmp_path / "other", disk_content(MIB, seed=3))
        adopt_disk(old, "box", other, fstype="ext4")
    elif before:
        old.mkdir()
        export(write_disk(tmp_path / "other", disk_content(MIB, seed=3)), old / "box")
    source = archive if verb == "import" else tmp_path / "disk"
    arguments = [verb, str(source), str(old) if before else "", str(tmp_path / "work")]
    done = subprocess.run(
        [sys.executable, str(DRIVER), *arguments],
        env={**os.environ, "LD_PRELOAD": str(preload)},
        capture_output=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["rounds"] > 8
