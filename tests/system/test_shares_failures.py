# SPDX-License-Identifier: Apache-2.0
"""Shares when things go wrong, and between guests that do not trust each other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from guests import Background, Eventually, Inn, Start, alive, record

import innkeeper
from innkeeper.model.share import parse_share

FILES = 100_000


def test_two_guests_do_not_see_each_others_share_at_the_same_place(
    tmp_path: Path, inn: Inn, start_inn: Start
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    script = "ls /mnt; ls /run/innkeeper/shares | wc -l; cat /mnt/../two 2>/dev/null; cat"
    other = start_inn("-v", f"{tmp_path}/two:/mnt", "--", "sh", "-c", script, name="other")
    first = inn("run", "-v", f"{tmp_path}/one:/mnt", "--", "sh", "-c", script)
    assert (first.code, first.stdout) == (0, b"one\n1\n"), first.error
    code, out, error = other.finish()
    assert (code, out) == (0, b"two\n1\n"), error


def test_a_server_is_locked_up_and_goes_with_its_keeper(
    tmp_path: Path, inn: Inn, eventually: Eventually, state_dir: Path
) -> None:
    (tmp_path / "one").mkdir()
    assert inn("create", "killed", "-v", f"{tmp_path}/one:/mnt").code == 0
    try:
        assert inn("start", "killed").code == 0
        kept = record(inn, "killed")
        pid = kept["shares"]["server_pid"]
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        # seccomp(2): 2 is a filter.
        assert status["Seccomp"] == "2"
        assert int(status["CapEff"], 16) & 1 << 21 == 0, "CAP_SYS_ADMIN"
        assert Path(f"/proc/{pid}/ns/mnt").readlink() != Path("/proc/self/ns/mnt").readlink()
        # All that it sees is the share.
        key = parse_share("/x:/mnt").key
        assert [path.name for path in Path(f"/proc/{pid}/root").iterdir()] == [key]
        os.kill(kept["keeper_pid"], signal.SIGKILL)
        eventually(lambda: not alive(pid))
        assert inn("start", "killed").code == 0
        assert inn("exec", "killed", "--", "ls", "/mnt").code == 0
    finally:
        assert inn("rm", "-f", "killed").code == 0


def test_a_killed_add_is_finished_by_the_next(
    tmp_path: Path, inn: Inn, background: Background
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "file").write_text("one\n")
    share = f"{tmp_path}/one:/mnt/one"
    assert inn("create", "half").code == 0
    try:
        assert inn("start", "half").code == 0
        for delay_s in (0.02, 0.06, 0.1, 0.15, 0.2, 0.3):
            begun = background("share", "add", "half", share)
            time.sleep(delay_s)  # any moment will do
            begun.kill()
            begun.wait()
            assert inn("share", "add", "half", share).code == 0
            assert inn("exec", "half", "--", "cat", "/mnt/one/file").stdout == b"one\n"
            rows = json.loads(inn("share", "ls", "half", "--format", "json").stdout)["shares"]
            assert [(row["mounted"], row["stays"]) for row in rows] == [(True, True)]
            assert inn("share", "rm", "half", "/mnt/one").stderr == b""
    finally:
        assert inn("rm", "-f", "half").code == 0


def test_a_folder_that_is_missing_is_told_before_anything_starts(tmp_path: Path, inn: Inn) -> None:
    done = inn("run", "-v", f"{tmp_path}/none:/mnt", "--", "true")
    assert (done.code, "there is none" in done.error) == (125, True)
    (tmp_path / "file").touch()
    done = inn("run", "-v", f"{tmp_path}/file:/mnt", "--", "true")
    assert (done.code, "it is no folder" in done.error) == (125, True)


def test_a_server_that_does_not_run_here_is_told_before_the_boot(tmp_path: Path, inn: Inn) -> None:
    server = tmp_path / "virtiofsd"
    server.write_text("#!/bin/sh\necho 'version GLIBC_2.39 not found' >&2\nexit 1\n")
    server.chmod(0o755)
    wish = ("-v", f"{tmp_path}:/mnt", "--share-transport", "virtiofs")
    done = inn("run", *wish, "--", "true", env={"INN_VIRTIOFSD": str(server)})
    assert done.code == 125
    for told in ("failed with exit code 1", "GLIBC_2.39", "INN_VIRTIOFSD"):
        assert told in done.error
    # One that says that it is one, and then cannot serve.
    server.write_text("#!/bin/sh\n[ $1 = --version ] || exit 3\necho virtiofsd 1.13.2\n")
    done = inn("run", *wish, "--", "true", env={"INN_VIRTIOFSD": str(server)})
    assert done.code == 125
    assert "the share server cannot serve" in done.error
    assert "exit code 3" in done.error


@pytest.mark.slow
def test_a_hundred_thousand_files(tmp_path: Path, inn: Inn) -> None:
    for number in range(FILES):
        os.mknod(tmp_path / f"{number:06d}")
    # The shell asks for names alone; asking for each file's size takes a minute.
    count = "set -- /mnt/*; echo $#"
    script = f"{count}; ls /mnt/099999; touch /mnt/new; rm /mnt/000000 /mnt/000001; {count}"
    done = inn("run", "-v", f"{tmp_path}:/mnt", "--", "sh", "-c", script)
    assert done.code == 0, done.error
    first, one, second = done.stdout.decode().split()
    assert (int(first), one, int(second)) == (FILES, "/mnt/099999", FILES - 1)


def test_shares_from_python(tmp_path: Path, state_dir: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "file").write_text("one\n")

    async def check(vm: innkeeper.Machine) -> tuple[Any, ...]:
        twin = innkeeper.AsyncMachine(vm)
        return await twin.shares.list()

    vm = innkeeper.Machine.create("python", shares=[f"{tmp_path}/one:/mnt/one"])
    try:
        vm.start()
        vm.shares.add(tmp_path / "one", "/mnt/two", read_only=True)
        assert vm.exec(["cat", "/mnt/one/file", "/mnt/two/file"], text=True).stdout == "one\none\n"
        assert [share.guest for share in vm.shares.list()] == ["/mnt/one", "/mnt/two"]
        assert asyncio.run(check(vm)) == vm.shares.list()
        assert vm.shares.remove("/mnt/two") is False
        with pytest.raises(innkeeper.InnError, match="unknown share"):
            vm.shares.remove("/mnt/two")
        vm.shares.remount()
        assert vm.exec(["cat", "/mnt/one/file"], text=True).stdout == "one\n"
    finally:
        vm.remove(force=True)
