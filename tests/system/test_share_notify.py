# SPDX-License-Identifier: Apache-2.0
"""What the host changes in a shared folder wakes programs of the guest that watch it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from full_kernel import provide_full_kernel
from guests import Inn, Running, Start

WATCHER = "/mnt/one/watcher"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to be shared, with a program that watches folders."""
    (tmp_path / "one" / "deep").mkdir(parents=True)
    (tmp_path / "one" / "old").write_text("old\n")
    (tmp_path / "one" / "deep" / "old").write_text("old\n")
    source = Path(__file__).with_name("watcher.c")
    # Static: the tiny guest has no C library, and no program that watches.
    argv = ["gcc", "-static", "-o", str(tmp_path / "one" / "watcher"), str(source)]
    subprocess.run(argv, check=True, capture_output=True)
    return tmp_path / "one"


def lines_until(guest: Running, last: str) -> list[str]:
    """What the guest tells, up to a line that begins so."""
    out = guest.process.stdout
    assert out is not None
    found: list[str] = []
    for line in out:
        found.append(line.decode().rstrip())
        if found[-1].startswith(last):
            return found
    pytest.fail(f"no {last!r} in {found}: {guest.finish()}")


def test_changes_of_the_host_wake_watchers(folder: Path, start_inn: Start) -> None:
    guest = start_inn(
        "--notify", "-v", f"{folder}:/mnt/one", "--", WATCHER, "/mnt/one", "/mnt/one/deep"
    )
    lines_until(guest, "ready")
    before = (folder / "old").stat()
    with (folder / "old").open("a") as file:
        file.write("new\n")
    changed = (folder / "old").stat()
    lines_until(guest, "c /mnt/one old")
    # Told, and otherwise left alone.
    after = (folder / "old").stat()
    assert (after.st_size, after.st_mtime_ns) == (changed.st_size, changed.st_mtime_ns)
    assert after.st_ino == before.st_ino
    (folder / "deep" / "old").write_text("changed\n")
    lines_until(guest, "c /mnt/one/deep old")
    (folder / "new").write_text("new\n")
    lines_until(guest, "c /mnt/one new")
    (folder / "deep" / "old").unlink()
    # Of what is gone, its folder tells.
    lines_until(guest, "e /mnt/one/deep")


def test_what_the_guest_writes_does_not_come_back(folder: Path, start_inn: Start) -> None:
    argv = (WATCHER, "-w", "/mnt/one/written", "/mnt/one")
    guest = start_inn("--notify", "-v", f"{folder}:/mnt/one", "--", *argv)
    lines_until(guest, "ready")
    # The host saw the guest's own first, and tells in that order.
    (folder / "end").write_text("x\n")
    told = lines_until(guest, "c /mnt/one end")
    own = [line for line in told if line.endswith(" written")]
    # Its own program sees what it wrote once: made, and written.
    assert own == ["c /mnt/one written"], told


def test_a_read_only_share_wakes_over_9p_and_not_over_virtiofs(
    folder: Path, inn: Inn, start_inn: Start
) -> None:
    refused = inn("run", "--notify", "-v", f"{folder}:/mnt/one:ro", "--", "true")
    assert refused.code == 125
    assert "--share-transport 9p" in refused.error
    kernel = str(provide_full_kernel())
    options = ("--notify", "--share-transport", "9p", "--kernel", kernel)
    guest = start_inn(*options, "-v", f"{folder}:/mnt/one:ro", "--", WATCHER, "/mnt/one", name="ro")
    lines_until(guest, "ready")
    (folder / "old").write_text("changed\n")
    lines_until(guest, "c /mnt/one old")
