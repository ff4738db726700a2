# SPDX-License-Identifier: Apache-2.0
"""Disks of real guests: exported, imported, made larger and smaller."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disk_archives import chromeos
from guests import Background, Eventually, Inn, record

Disks = Callable[..., Path]

MIB = 1 << 20
PLACE = "/mnt/d"


@pytest.fixture
def disks(inn: Inn) -> Iterator[Callable[..., Path]]:
    """Make disks with these arguments, the first being the name; all are removed at the end."""

    def make(name: str, *arguments: str) -> Path:
        done = inn("disk", "create", name, *arguments, "--format", "json")
        assert done.code == 0, done.error
        return Path(json.loads(done.stdout)["disk"]["file"])

    yield make
    for name in inn("disk", "ls", "-q").stdout.decode().split():
        assert inn("disk", "rm", "--force", name).code == 0, name


@pytest.fixture
def guest(inn: Inn) -> Iterator[Callable[[str], None]]:
    """Start the machine `box` with a disk."""

    def start(disk: str) -> None:
        made = inn("create", "box", "--disk", f"{disk}:{PLACE}")
        assert made.code == 0, made.error
        begun = inn("start", "box")
        assert begun.code == 0, begun.error

    yield start
    inn("rm", "-f", "box")


def written(inn: Inn) -> bytes:
    """Have the guest write something; its digest, as sha256sum tells it."""
    script = f"dd if=/dev/urandom of={PLACE}/data bs=1M count=12 2>/dev/null; sync"
    assert inn("exec", "box", "sh", "-c", script).code == 0
    return inn("exec", "box", "sha256sum", f"{PLACE}/data").stdout


def read_again(inn: Inn, disk: str) -> bytes:
    """The digest, as another guest finds it."""
    done = inn("run", "--disk", f"{disk}:{PLACE}", "--", "sha256sum", f"{PLACE}/data")
    assert done.code == 0, done.error
    return done.stdout


def capacity_bytes(inn: Inn) -> int:
    """How large the running guest's file system is."""
    shown = inn("exec", "box", "df", "-k", PLACE).stdout.decode().splitlines()[-1]
    return int(shown.split()[1]) * 1024


@pytest.mark.slow
def test_ext4_grows_under_its_guest_and_shrinks_without_it(
    inn: Inn, disks: Disks, guest: Callable[[str], None]
) -> None:
    file = disks("data", "--size", "64M")
    guest("data")
    digest = written(inn)
    before = capacity_bytes(inn)
    grown = inn("disk", "resize", "data", "128M", "--format", "json")
    assert grown.code == 0, grown.error
    assert json.loads(grown.stdout)["resize"] == {
        "disk": "data",
        "before_bytes": 64 * MIB,
        "size_bytes": 128 * MIB,
        "running": True,
    }
    assert capacity_bytes(inn) > before + 50 * MIB
    # Its blocks were taken in advance, and so are those that came.
    assert file.stat().st_blocks * 512 >= 128 * MIB
    refused = inn("disk", "resize", "data", "64M")
    assert refused.code == 125
    assert "ext4 shrinks only while nobody has it" in refused.error
    assert inn("stop", "box").code == 0
    small = inn("disk", "resize", "data", "16M")
    assert small.code == 125
    assert "what is on it needs" in small.error
    assert file.stat().st_size == 128 * MIB
    shrunk = inn("disk", "resize", "data", "48M")
    assert shrunk.stdout == b"data: 48M, before 128M\n", shrunk.error
    assert file.stat().st_size == 48 * MIB
    assert file.stat().st_blocks * 512 >= 48 * MIB
    check = subprocess.run(["e2fsck", "-f", "-n", str(file)], capture_output=True, check=False)
    assert check.returncode == 0, check.stdout
    larger = inn("disk", "resize", "data", "80M")
    assert larger.code == 0, larger.error
    assert inn("start", "box").code == 0
    assert inn("exec", "box", "sha256sum", f"{PLACE}/data").stdout == digest
    assert capacity_bytes(inn) > 60 * MIB


@pytest.mark.slow
def test_btrfs_grows_and_shrinks_under_its_guest(
    inn: Inn, disks: Disks, guest: Callable[[str], None]
) -> None:
    file = disks("data", "--size", "300M", "--sparse", "--fs", "btrfs")
    guest("data")
    digest = written(inn)
    for size in (400, 280):
        done = inn("disk", "resize", "data", f"{size}M")
        assert done.code == 0, done.error
        assert file.stat().st_size == size * MIB
        assert capacity_bytes(inn) == size * MIB
    assert file.stat().st_blocks * 512 < 150 * MIB
    refused = inn("disk", "resize", "data", "200M")
    assert refused.code == 125
    assert "needs 268435456 bytes" in refused.error
    assert inn("stop", "box").code == 0
    for size in (320, 260):
        done = inn("disk", "resize", "data", f"{size}M")
        assert done.code == 0, done.error
        assert file.stat().st_size == size * MIB
    assert read_again(inn, "data") == digest
    check = subprocess.run(["btrfs", "check", str(file)], capture_output=True, check=False)
    assert check.returncode == 0, check.stderr


@pytest.mark.slow
def test_a_disk_travels(
    inn: Inn, disks: Disks, guest: Callable[[str], None], tmp_path: Path
) -> None:
    file = disks("data", "--size", "64M", "--sparse")
    guest("data")
    digest = written(inn)
    archive = tmp_path / "data.zst"
    refused = inn("disk", "export", "data", str(archive))
    assert refused.code == 125
    assert "is in use" in refused.error
    assert "--force" in refused.error
    # The guest writes all the time; what is read is one moment of it.
    busy = f"while :; do date > {PLACE}/now; done > /dev/null 2>&1 &"
    assert inn("exec", "box", "sh", "-c", busy).code == 0
    forced = inn("disk", "export", "data", str(archive), "--force", "--progress", "json")
    assert forced.code == 0, forced.error
    told = [json.loads(line)["done_bytes"] for line in forced.error.splitlines()]
    assert told == sorted(told)
    assert told[-1] == 64 * MIB
    assert record(inn, "box")["state"] == "running"
    subprocess.run(["sha256sum", "-c", "data.zst.sha256"], cwd=tmp_path, check=True)
    assert inn("disk", "import", "copy", str(archive)).stdout == b"copy\n"
    assert read_again(inn, "copy") == digest
    replaced = inn("disk", "import", "data", str(archive), "--replace")
    assert replaced.code == 125
    assert "is in use" in replaced.error
    assert inn("stop", "box").code == 0
    content = file.read_bytes()
    upstream, legacy = tmp_path / "upstream.zst", tmp_path / "legacy.zip"
    upstream.write_bytes(chromeos(content))
    with zipfile.ZipFile(legacy, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("vm.img", content)
    for path, kind in ((upstream, "zstd"), (legacy, "zip")):
        done = inn("disk", "import", "copy", str(path), "--replace", "--format", "json")
        assert done.code == 0, done.error
        assert json.loads(done.stdout)["source"]["kind"] == kind
        copied = (file.parents[1] / "copy/disk.img").read_bytes()
        assert hashlib.sha256(copied).digest() == hashlib.sha256(content).digest()
    shown = inn("disk", "inspect-archive", str(upstream)).stdout.decode()
    assert "made by      ChromeOS" in shown
    assert "termina" in shown
    # Damaged: the old one stays.
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    broken = inn("disk", "import", "copy", str(archive), "--replace")
    assert broken.code == 125
    assert "at byte" in broken.error
    assert read_again(inn, "copy") == digest


@pytest.mark.slow
def test_a_shrink_that_is_killed_leaves_the_disk(
    inn: Inn,
    disks: Disks,
    guest: Callable[[str], None],
    background: Background,
    eventually: Eventually,
) -> None:
    file = disks("data", "--size", "128M", "--sparse")
    guest("data")
    digest = written(inn)
    assert inn("stop", "box").code == 0
    overlay = file.with_name("resize.qcow2")
    child = background("disk", "resize", "data", "48M")
    # The guest writes to the overlay by then, or soon will.
    eventually(lambda: overlay.exists() and overlay.stat().st_blocks > 1024)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert read_again(inn, "data") == digest
    assert not overlay.exists()
    # On a host that held us up for seconds it was over before it was killed.
    assert file.stat().st_size in (128 * MIB, 48 * MIB)
    again = inn("disk", "resize", "data", "48M")
    assert again.code == 0, again.error
    check = subprocess.run(["e2fsck", "-f", "-n", str(file)], capture_output=True, check=False)
    assert check.returncode == 0, check.stdout
    told = subprocess.run(
        ["debugfs", "-R", "cat /data", str(file)], capture_output=True, check=True
    )
    assert hashlib.sha256(told.stdout).hexdigest().encode() == digest.split()[0]


def test_a_cancelled_export_leaves_nothing(
    inn: Inn, disks: Disks, background: Background, tmp_path: Path
) -> None:
    file = disks("data", "--size", "256M")
    with file.open("r+b") as made:
        for _ in range(200):
            made.write(os.urandom(MIB))
    target = tmp_path / "target"
    target.mkdir()
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        # At this level it takes many times as long as until its first word.
        child = background(
            *("disk", "export", "data", str(target / "a")), "--level", "19", "--progress", "json"
        )
        assert child.stderr is not None
        # It has written something by then.
        while json.loads(child.stderr.readline())["done_bytes"] == 0:
            pass
        child.send_signal(number)
        child.communicate()
        assert child.returncode == code
        assert not (target / "a").exists()
    assert len(os.listdir(target)) == 1  # noqa: PTH208 - what the killed one left is hidden
    done = inn("disk", "export", "data", str(target / "a"))
    assert done.code == 0, done.error
    assert sorted(os.listdir(target)) == ["a", "a.sha256"]  # noqa: PTH208
