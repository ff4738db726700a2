# SPDX-License-Identifier: Apache-2.0
"""Machines whose folders are full, read-only, damaged or gone, before a start and under it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guests import Eventually, Inn, alive, record

Mount = Callable[..., None]


def lines_of(inn: Inn) -> dict[str, str]:
    """The lines of `inn ls` by name."""
    done = inn("ls")
    assert done.code == 0, done.error
    return {line.split()[0]: line for line in done.stdout.decode().splitlines()[1:]}


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder for this test alone."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("INN_STATE_DIR", str(folder))
    return folder


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mount with these arguments, the last being the folder; unmounted at the end."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system to fill or to make read-only")
    mounted: list[Path] = []

    def do(*arguments: str, on: Path) -> None:
        subprocess.run(["mount", *arguments, str(on)], check=True)
        if "remount" not in arguments[-1]:
            mounted.append(on)

    yield do
    for folder in reversed(mounted):
        if os.path.ismount(folder):
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Ballast:
    """A file that takes all the space there is."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ballast"

    def fill(self) -> None:
        with self.path.open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def drop(self) -> None:
        self.path.unlink()


def say(inn: Inn, text: str, times: int = 1) -> None:
    loop = f"i=0; while [ $i -lt {times} ]; do echo {text} $i; i=$((i+1)); done > /dev/console"
    done = inn("exec", "full", "sh", "-c", loop)
    assert done.code == 0, done.error


def test_a_full_disk_at_every_step(
    inn: Inn, own_state: Path, mount: Mount, runtime_dir: Path
) -> None:
    mount("-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", on=own_state)
    ballast = Ballast(own_state)
    ballast.fill()
    done = inn("create", "full")
    assert done.code == 125
    assert "no space left" in done.error
    assert lines_of(inn) == {}
    ballast.drop()
    assert inn("create", "full").code == 0

    ballast.fill()
    done = inn("start", "full")
    assert done.code == 125
    assert "no space left to write" in done.error
    assert "record.json" in done.error or "keeper.log" in done.error
    # The failure itself is not lost: the runtime folder is on another disk.
    refused = record(inn, "full")
    assert refused["state"] == "failed"
    assert "no space left to write" in refused["reason"]
    ballast.drop()

    assert inn("start", "full").code == 0
    pids = record(inn, "full")
    ballast.fill()
    say(inn, "unheard", 2000)
    # New states are recorded in the room that the record has.
    assert inn("pause", "full").code == 0
    assert record(inn, "full")["state"] == "paused"
    assert inn("resume", "full").code == 0
    assert record(inn, "full")["state"] == "running"
    ballast.drop()
    say(inn, "heard")
    text = inn("logs", "full").stdout.decode()
    assert "bytes lost]" in text
    assert text.splitlines()[-1] == "heard 0"

    ballast.fill()
    assert inn("stop", "full").code == 0
    ended = record(inn, "full")
    assert (ended["state"], ended["rung"], ended["error"]) == ("stopped", "agent", None)
    assert not alive(pids["keeper_pid"])
    assert not alive(pids["qemu_pid"])
    assert list(runtime_dir.iterdir()) == []
    # Removing needs no room.
    assert inn("rm", "full").code == 0


def test_a_read_only_disk(inn: Inn, own_state: Path, mount: Mount, runtime_dir: Path) -> None:
    def lock_up() -> None:
        mount("--bind", str(own_state), on=own_state)
        mount("-o", "remount,bind,ro", on=own_state)

    def unlock() -> None:
        subprocess.run(["umount", str(own_state)], check=True)

    assert inn("create", "still").code == 0
    lock_up()
    for arguments in (("create", "other"), ("start", "still"), ("rm", "still")):
        done = inn(*arguments)
        assert done.code == 125, arguments
        assert str(own_state) in done.error
        assert "Traceback" not in done.error
    assert "created" in lines_of(inn)["still"]
    unlock()
    assert inn("start", "still").code == 0
    lock_up()
    assert inn("exec", "still", "true").code == 0
    done = inn("stop", "still")
    assert done.code == 0, done.error
    # The record could not be written; what the runtime folder knows is told.
    ended = record(inn, "still")
    assert (ended["state"], ended["rung"]) == ("stopped", "agent")
    assert "stopped" in lines_of(inn)["still"]
    unlock()
    assert "stopped" in lines_of(inn)["still"]
    assert inn("start", "still").code == 0
    assert record(inn, "still")["starts"] == 2
    assert inn("stop", "-t", "0", "still").code == 0
    assert list(runtime_dir.iterdir()) == []


DAMAGE: dict[str, bytes] = {
    "empty": b"",
    "truncated": b'{"name": "hurt", "sta',
    "binary": bytes(range(256)) * 20,
    "wrong types": b'{"name": 7, "state": "running", "changed_at": "yesterday", "cpus": {}}',
    "another thing": b"[]",
    "nested": b"[" * 500_000,
    "huge": b'{"name": "' + b"x" * (3 << 20) + b'"}',
    "later version": b'{"version": 99, "name": "hurt", "state": "stopped", "changed_at": 1.0}',
}


def test_damaged_files_are_named_and_disturb_nobody_else(inn: Inn, own_state: Path) -> None:
    assert inn("create", "well").code == 0
    for kind, content in DAMAGE.items():
        for name in ("machine.json", "record.json"):
            assert inn("create", "hurt").code == 0
            file = own_state / "machines/hurt" / name
            file.write_bytes(content)
            lines = lines_of(inn)
            assert "created" in lines["well"], kind
            assert "damaged" in lines["hurt"], kind
            for arguments in (("inspect", "hurt"), ("start", "hurt")):
                done = inn(*arguments)
                assert done.code == 125, (kind, arguments, done.error)
                assert str(file) in done.error, (kind, arguments)
                assert "Traceback" not in done.error
            assert file.read_bytes() == content, kind
            assert inn("rm", "-f", "hurt").code == 0, kind
            assert set(lines_of(inn)) == {"well"}


def test_odd_things_in_the_place_of_files(inn: Inn, own_state: Path) -> None:
    assert inn("create", "odd").code == 0
    file = own_state / "machines/odd/record.json"
    file.unlink()
    os.mkfifo(file)
    assert "damaged" in lines_of(inn)["odd"]
    file.unlink()
    file.mkdir()
    assert "damaged" in lines_of(inn)["odd"]
    file.rmdir()
    # Without a record, nothing is known of its life, and the next start writes one.
    assert "created" in lines_of(inn)["odd"]
    (own_state / "machines/odd/machine.json").unlink()
    assert "odd" in lines_of(inn)
    (own_state / "machines/stray").write_text("no folder")
    assert "stray" not in lines_of(inn)
    assert inn("rm", "-f", "odd").code == 0


def test_a_damaged_record_of_a_running_guest(inn: Inn, own_state: Path, runtime_dir: Path) -> None:
    assert inn("create", "hurt").code == 0
    assert inn("start", "hurt").code == 0
    for file in (own_state / "machines/hurt/record.json", runtime_dir / "hurt/state.json"):
        file.write_bytes(b"\0garbage")
    assert "damaged" in lines_of(inn)["hurt"]
    assert inn("exec", "hurt", "true").code in (0, 125)
    done = inn("stop", "hurt")
    assert done.code == 0, done.error
    # Its keeper knew all the time.
    assert (record(inn, "hurt")["state"], record(inn, "hurt")["rung"]) == ("stopped", "agent")
    assert inn("rm", "hurt").code == 0


def test_a_machine_folder_removed_under_its_guest(
    inn: Inn, own_state: Path, runtime_dir: Path
) -> None:
    assert inn("create", "gone").code == 0
    assert inn("start", "gone").code == 0
    pid = record(inn, "gone")["qemu_pid"]
    shutil.rmtree(own_state / "machines/gone")
    assert "running" in lines_of(inn)["gone"]
    assert inn("exec", "gone", "true").code == 0
    done = inn("create", "gone")
    assert done.code == 125
    assert "a guest named 'gone' is running" in done.error
    assert inn("stop", "gone").code == 0
    assert not alive(pid)
    assert lines_of(inn) == {}
    assert list(runtime_dir.iterdir()) == []


def test_a_runtime_folder_removed_under_its_guest(
    inn: Inn, own_state: Path, runtime_dir: Path, eventually: Eventually
) -> None:
    assert own_state.is_dir()
    assert inn("create", "lost").code == 0
    assert inn("start", "lost").code == 0
    before = record(inn, "lost")
    shutil.rmtree(runtime_dir / "lost")
    # Nobody could reach the guest any more: its keeper ends it in order.
    assert inn("stop", "lost").code == 0
    ended = record(inn, "lost")
    assert (ended["state"], ended["rung"]) == ("stopped", "agent")
    assert ended["reason"] == "its runtime folder was removed while it ran"
    assert "its runtime folder was removed" in lines_of(inn)["lost"]
    eventually(lambda: not alive(before["keeper_pid"]))
    assert not alive(before["qemu_pid"])
    assert inn("start", "lost").code == 0
    assert inn("stop", "-t", "0", "lost").code == 0
    assert inn("rm", "lost").code == 0
