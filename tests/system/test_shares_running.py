# SPDX-License-Identifier: Apache-2.0
"""Shares of a guest that runs: they come and go, are busy, and lose their server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from guests import INN, Eventually, Inn, alive, record

NAME = "shared"


@pytest.fixture(scope="module")
def folders(state_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders with a file each, and a machine that has the first of them at /mnt/one."""
    folder = tmp_path_factory.mktemp("shares")
    for name in ("one", "two", "three"):
        (folder / name).mkdir()
        (folder / name / "file").write_text(f"{name}\n")
    for arguments in (["create", NAME, "-v", f"{folder}/one:/mnt/one"], ["start", NAME]):
        subprocess.run([*INN, *arguments], check=True, capture_output=True)
    yield folder
    subprocess.run([*INN, "rm", "-f", NAME], check=True, capture_output=True)


@pytest.fixture
def guest(inn: Inn) -> Callable[[str], str]:
    """What a shell of the guest prints."""

    def run(script: str) -> str:
        done = inn("exec", NAME, "--", "sh", "-c", script)
        assert done.code == 0, done.error
        return done.stdout.decode().strip()

    return run


def served(inn: Inn) -> dict[str, Any]:
    value = record(inn, NAME)["shares"]
    assert isinstance(value, dict)
    return value


def listed(inn: Inn) -> dict[str, dict[str, Any]]:
    done = inn("share", "ls", NAME, "--format", "json")
    assert done.code == 0, done.error
    return {share["guest"]: share for share in json.loads(done.stdout)["shares"]}


def holds(pid: int, folder: Path) -> bool:
    """Whether a process has the folder, or its file, open."""
    wanted = {(found.st_dev, found.st_ino) for found in (folder.stat(), (folder / "file").stat())}
    links = Path(f"/proc/{pid}/fd").iterdir()
    return not wanted.isdisjoint((found.st_dev, found.st_ino) for found in map(os.stat, links))


def test_a_share_comes_and_goes(folders: Path, inn: Inn, guest: Callable[[str], str]) -> None:
    added = inn("share", "add", NAME, "two:/mnt/two:ro", cwd=folders)
    assert added.code == 0, added.error
    # The second time, nothing is left to do.
    assert inn("share", "add", NAME, f"{folders}/two:/mnt/two:ro").code == 0
    assert guest("cat /mnt/one/file /mnt/two/file") == "one\ntwo"
    assert "Read-only" in guest("touch /mnt/two/new 2>&1 || true")
    assert "Read-only" in guest("mount -o remount,rw /mnt/two; touch /mnt/two/new 2>&1 || true")
    share = listed(inn)["/mnt/two"]
    assert (share["mounted"], share["stays"], share["read_only"]) == (True, True, True)
    taken = inn("share", "add", NAME, f"{folders}/three:/mnt/two")
    assert (taken.code, "two shares at /mnt/two" in taken.error) == (2, True)
    assert inn("share", "rm", NAME, "/mnt/two").stderr == b""
    assert guest("ls -d /mnt/two 2>&1 || true").endswith("No such file or directory")
    assert "/mnt/two" not in listed(inn)
    unknown = inn("share", "rm", NAME, "/mnt/on")
    assert (unknown.code, "did you mean '/mnt/one'" in unknown.error) == (2, True)
    assert served(inn)["transport"] == "virtiofs"


def test_what_cannot_be_shared_is_refused(
    folders: Path, inn: Inn, guest: Callable[[str], str]
) -> None:
    before = listed(inn)
    missing = inn("share", "add", NAME, f"{folders}/none:/mnt/none")
    assert (missing.code, "there is none" in missing.error) == (125, True)
    refused = inn("share", "add", NAME, f"{folders}/two:/etc/passwd/x")
    assert (refused.code, "the guest cannot mount its shares" in refused.error) == (125, True)
    assert listed(inn) == before
    # Nothing of it is left with the server: a guest that looks past its places sees no more.
    assert guest("ls /run/innkeeper/shares | wc -l") == str(len(before))


def test_a_share_in_use_is_refused_with_who_uses_it(
    folders: Path, inn: Inn, guest: Callable[[str], str]
) -> None:
    assert inn("share", "add", NAME, f"{folders}/two:/mnt/busy").code == 0
    pid = guest("exec >/dev/null; cd /mnt/busy; sleep 1000 & echo $! >/tmp/pid")
    pid = guest("cat /tmp/pid")
    refused = inn("share", "rm", NAME, "/mnt/busy")
    assert refused.code == 125
    assert f"{pid} (sleep, cwd)" in refused.error
    assert guest("cat /mnt/busy/file") == "two"
    forced = inn("share", "rm", NAME, "/mnt/busy", "--force")
    assert (forced.code, "still holds files of /mnt/busy" in forced.error) == (0, True)
    # As it was told: what is in use stays so.
    assert guest(f"cat /proc/{pid}/cwd/file; kill {pid}") == "two"
    assert guest("ls -d /mnt/busy 2>&1 || true").endswith("No such file or directory")


def test_a_revoked_share_is_out_of_reach(
    folders: Path, inn: Inn, guest: Callable[[str], str]
) -> None:
    assert inn("share", "add", NAME, f"{folders}/three:/mnt/three").code == 0
    guest("exec >/dev/null; sleep 1000 </mnt/three/file & echo $! >/tmp/pid")
    assert holds(served(inn)["server_pid"], folders / "three")
    revoked = inn("share", "rm", NAME, "/mnt/three", "--revoke")
    assert (revoked.code, revoked.error) == (0, "")
    assert guest("kill -0 $(cat /tmp/pid) 2>&1 || true").endswith("No such process")
    # The server has no descriptor of it, so nothing can lead there.
    assert not holds(served(inn)["server_pid"], folders / "three")
    assert guest("cat /mnt/one/file") == "one"


def test_a_killed_server_is_replaced_and_programs_are_told(
    folders: Path, inn: Inn, guest: Callable[[str], str], eventually: Eventually
) -> None:
    guest(
        "cd /mnt/one; (while echo x >load; do :; done; echo lost >/tmp/told; exec sleep 1000)"
        " >/dev/null 2>&1 & while [ ! -s /mnt/one/load ]; do :; done; echo $! >/tmp/pid"
    )
    before = served(inn)
    os.kill(before["server_pid"], signal.SIGKILL)
    guest("while [ ! -e /tmp/told ]; do :; done")
    # It is in the folder still, and so is what was lost.
    pid = guest("cat /tmp/pid")
    eventually(lambda: f"what was lost: {pid} (" in served(inn)["fault"])
    guest(f"kill {pid}")
    eventually(lambda: served(inn)["fault"] == "")
    after = served(inn)
    assert (after["restarts"], alive(before["server_pid"])) == (before["restarts"] + 1, False)
    assert guest("rm /mnt/one/load; ls /mnt/one; cat /mnt/one/file") == "file\none"


def test_a_folder_that_is_deleted_on_the_host_ends_in_errors(
    folders: Path, inn: Inn, guest: Callable[[str], str]
) -> None:
    (folders / "gone").mkdir()
    assert inn("share", "add", NAME, f"{folders}/gone:/mnt/gone").code == 0
    (folders / "gone").rmdir()
    assert "No such file" in guest("touch /mnt/gone/x 2>&1 || true")
    assert guest("cat /mnt/one/file") == "one"
    assert inn("share", "rm", NAME, "/mnt/gone").code == 0


def test_a_machine_that_does_not_run_keeps_its_shares_for_the_next_start(
    folders: Path, inn: Inn
) -> None:
    assert inn("create", "resting").code == 0
    try:
        assert inn("share", "add", "resting", "one:/mnt/one", cwd=folders).code == 0
        rows = json.loads(inn("share", "ls", "resting", "--format", "json").stdout)["shares"]
        assert [(row["host"], row["mounted"]) for row in rows] == [(str(folders / "one"), False)]
        assert inn("share", "rm", "resting", "/mnt/one").code == 0
        assert json.loads(inn("share", "ls", "resting", "--format", "json").stdout)["shares"] == []
    finally:
        assert inn("rm", "resting").code == 0
