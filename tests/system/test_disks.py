# SPDX-License-Identifier: Apache-2.0
"""Disks in guests: made once, kept, shared, full, on a host that is full."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from guests import Background, Eventually, Inn, record

Disks = Callable[..., Path]

MIB = 1 << 20


def made(inn: Inn, *arguments: str) -> dict[str, object]:
    """A new disk, as `inn disk create` tells of it."""
    done = inn("disk", "create", *arguments, "--format", "json")
    assert done.code == 0, done.error
    disk = json.loads(done.stdout)["disk"]
    assert isinstance(disk, dict)
    return disk


@pytest.fixture
def disks(inn: Inn) -> Iterator[Callable[..., Path]]:
    """Make disks with these arguments, the first being the name; removed at the end."""
    names = []

    def make(name: str, *arguments: str) -> Path:
        names.append(name)
        return Path(str(made(inn, name, *arguments)["file"]))

    yield make
    for name in names:
        assert inn("disk", "rm", "--force", name).code == 0, name


def states(inn: Inn, name: str) -> dict[str, tuple[str, str]]:
    """Condition and space of a guest's disks by name."""
    return {disk["name"]: (disk["condition"], disk["space"]) for disk in record(inn, name)["disks"]}


def test_a_disk_is_formatted_once_and_keeps_its_data(inn: Inn, disks: Disks) -> None:
    ext4 = disks("data", "--size", "64M")
    btrfs = disks("more", "--size", "160M", "--fs", "btrfs")
    blocks = ext4.stat().st_blocks
    assert blocks * 512 >= 64 * MIB
    # The inner one is named first, and mounted last.
    places = ("--disk", "more:/srv/data/more", "--disk", "data:/srv/data")
    look = "grep /srv/data /proc/mounts; cut -f2 /run/innkeeper/disks; ls /usr/lib"
    script = f"echo kept > /srv/data/file; echo too > /srv/data/more/file; {look}"
    first = inn("run", *places, "--", "sh", "-c", script)
    assert first.code == 0, first.error
    shown = first.stdout.decode()
    assert re.search(r"/srv/data ext4 rw,nodev", shown)
    assert re.search(r"/srv/data/more btrfs rw,nodev", shown)
    assert shown.split().count("MADE") == 2
    # The programs that made them are gone from the guest's memory.
    assert "innkeeper" not in shown.split("MADE")[-1]
    identity = ext4.read_bytes()[1024 + 104 : 1024 + 120]
    # The same on the other bus.
    again = f"cat /srv/data/file /srv/data/more/file; {look}"
    second = inn("run", "--oem-string", "on PCI", *places, "--", "sh", "-c", again)
    assert second.stdout.startswith(b"kept\ntoo\n"), second.error
    assert second.stdout.split().count(b"GOOD") == 2
    assert ext4.read_bytes()[1024 + 104 : 1024 + 120] == identity != bytes(16)
    # What was taken in advance stays taken.
    assert ext4.stat().st_blocks >= blocks
    assert stat.S_IMODE(ext4.stat().st_mode) == 0o600
    # Nothing is left to be written back or repaired: the guest ended in order.
    check = subprocess.run(["e2fsck", "-f", "-n", str(ext4)], capture_output=True, check=False)
    assert check.returncode == 0, check.stdout
    check = subprocess.run(["btrfs", "check", str(btrfs)], capture_output=True, check=False)
    assert check.returncode == 0, check.stderr


def test_a_disk_that_does_not_exist_is_told_with_its_fix(inn: Inn) -> None:
    done = inn("run", "--disk", "nothing:/d", "--", "true")
    assert done.code == 2
    assert "unknown disk 'nothing'" in done.error
    assert "`inn disk create nothing` makes it" in done.error


def test_a_qcow2_that_is_shared_and_a_strangers_disk(
    inn: Inn, disks: Disks, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/hello").write_text("from outside\n")
    raw, qcow2, odd = tmp_path / "raw", tmp_path / "mine.qcow2", tmp_path / "odd"
    make = ["mke2fs", "-q", "-t", "ext4", "-d", str(tmp_path / "tree"), str(raw), "32M"]
    subprocess.run(make, check=True)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(qcow2)], check=True)
    mine = disks("mine", "--from", str(qcow2))
    script = "cat /d/hello; echo more > /d/more"
    done = inn("run", "--disk", "mine:/d", "--", "sh", "-c", script)
    assert done.stdout == b"from outside\n", done.error
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(mine), str(raw)], check=True)
    seen = subprocess.run(["debugfs", "-R", "cat /more", str(raw)], capture_output=True, check=True)
    assert seen.stdout == b"more\n"
    odd.write_bytes(bytes(MIB // 2) + b"somebody's".ljust(31 * MIB + MIB // 2, b"\0"))
    before = disks("odd", "--from", str(odd)).read_bytes()
    try:
        assert inn("create", "reader", "--disk", "mine:/d:ro").code == 0
        assert inn("start", "reader").code == 0
        script = "cat /d/more; touch /d/no"
        shown = inn("run", "--disk", "mine:/d:ro", "--", "sh", "-c", script)
        assert shown.stdout == b"more\n"
        assert "Read-only file system" in shown.error
        refused = inn("run", "--disk", "mine:/d", "--", "true")
        assert refused.code == 125
        assert "the disk 'mine' is used by the guest reader" in refused.error
        listed = inn("disk", "ls").stdout.decode()
        assert re.search(r"^mine +32M .* ext4 +reader\*$", listed, re.MULTILINE), listed
        removed = inn("disk", "rm", "--force", "mine")
        assert removed.code == 125
        assert "in use" in removed.error
        assert inn("stop", "-t", "0", "reader").code == 0
        named = inn("disk", "rm", "mine")
        assert named.code == 125
        assert "named by the machine reader" in named.error
    finally:
        inn("rm", "-f", "reader")
    refused = inn("run", "--disk", "odd:/d", "--", "true")
    assert refused.code == 125
    assert "cannot use its disk: /d: the superblock is damaged" in refused.error
    assert (mine.parents[1] / "odd/disk.img").read_bytes() == before


def test_a_disk_that_gets_full_is_told_of_once_a_change(
    inn: Inn, disks: Disks, background: Background, eventually: Eventually
) -> None:
    disks("data", "--size", "32M", "--sparse")
    try:
        assert inn("create", "full", "--disk", "data:/d").code == 0
        assert inn("start", "full").code == 0
        eventually(lambda: states(inn, "full") == {"data": ("MADE", "NORMAL")})
        events = background("events", "full", "--format", "json")
        assert events.stdout is not None
        assert json.loads(events.stdout.readline())["state"] == "running"
        free = record(inn, "full")["disks"][0]["free_bytes"]
        part = "dd if=/dev/zero of=/d/{} bs=64k count={} 2>/dev/null; sync"
        for script, space in (
            (part.format("one", int(free * 0.94) >> 16), "LOW"),
            (part.format("two", 1000), "CRITICAL"),
            ("rm /d/one /d/two; sync", "NORMAL"),
        ):
            inn("exec", "full", "sh", "-c", script)
            event = json.loads(events.stdout.readline())
            assert (event["disk"], event["space"]) == ("data", space)
            assert event["state"] == "running"
            assert states(inn, "full") == {"data": ("MADE", space)}
        assert "NORMAL" in inn("inspect", "full").stdout.decode()
    finally:
        inn("rm", "-f", "full")


def read_until(events: IO[bytes] | None, state: str) -> dict[str, object]:
    """The next event of a guest that is about this state."""
    assert events is not None
    for line in events:
        event = json.loads(line)
        if event["state"] == state:
            assert isinstance(event, dict)
            return event
    pytest.fail(f"the events ended before {state}")


def test_a_guest_waits_for_space_on_its_host(
    inn: Inn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    background: Background,
    eventually: Eventually,
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96M,mode=700", "tmpfs", state], check=True)
    monkeypatch.setenv("INN_STATE_DIR", str(state))
    ballast = state / "ballast"
    try:
        made(inn, "data", "--size", "80M", "--sparse")
        assert inn("create", "web", "--disk", "data:/d").code == 0
        assert inn("start", "web").code == 0
        ballast.write_bytes(bytes(60 * MIB))
        write = "dd if=/dev/urandom of=/d/file bs=1M count=48 conv=fsync 2>/dev/null &"
        assert inn("exec", "web", "sh", "-c", write).code == 0
        watcher = background("events", "web", "--format", "json")
        told = read_until(watcher.stdout, "paused")
        assert "no space left" in str(told["reason"])
        assert record(inn, "web")["state"] == "paused"
        ballast.unlink()
        assert "has space" in str(read_until(watcher.stdout, "running")["reason"])
        size = inn(
            "exec", "web", "sh", "-c", "wait; while pidof dd; do sleep 0.1; done; wc -c /d/file"
        )
        assert size.stdout.split()[-2:] == [str(48 * MIB).encode(), b"/d/file"], size.error
        # It looks at the records whenever they change, and a file system with an open
        # file cannot be unmounted.
        watcher.terminate()
        watcher.wait(30)
        # Without a size, nine tenths of what is free, which is too little here.
        refused = inn("disk", "create", "auto")
        assert refused.code == 125
        assert "less than 1G" in refused.error
    finally:
        inn("rm", "-f", "web")
        # A keeper that said "stopped" is a moment from its exit, with its log still open.
        eventually(lambda: subprocess.run(["umount", state], check=False).returncode == 0)


def test_an_automatic_size_on_a_small_file_system(
    inn: Inn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    # It is never filled: nothing is written to the disk.
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3000M,mode=700", "tmpfs", state], check=True
    )
    monkeypatch.setenv("INN_STATE_DIR", str(state))
    try:
        (state / "disks").mkdir(mode=0o700)
        free = os.statvfs(state)
        disk = made(inn, "data")
        expected = free.f_bavail * free.f_frsize * 9 // 10 // 4096 * 4096
        assert disk["size_bytes"] == expected
        file = Path(str(disk["file"])).stat()
        assert (file.st_size, file.st_blocks) == (expected, 0)
        assert stat.S_IMODE(file.st_mode) == 0o600
    finally:
        subprocess.run(["umount", state], check=True)
