# SPDX-License-Identifier: Apache-2.0
"""Machines among others: another user, a second command at the same time, a taken port, a flood."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guests import INN, Background, Eventually, Inn, Result, record

from innkeeper.system.host import memory_pss_bytes

NOBODY = 65534
KEEPER_LIMIT_BYTES = 64 << 20

AsNobody = Callable[..., Result]


@pytest.fixture
def as_nobody() -> Iterator[AsNobody]:
    """Run a program as the user nobody with a home of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    seen = subprocess.run([*drop, *INN, "--version"], capture_output=True, cwd="/", check=False)
    if seen.returncode != 0:
        pytest.skip(f"the user nobody cannot read this folder: {seen.stderr.decode()[-200:]}")
    home = Path(tempfile.mkdtemp(prefix="home-", dir="/tmp"))
    os.chown(home, NOBODY, NOBODY)

    def run(*argv: str, **env: str) -> Result:
        done = subprocess.run(
            [*drop, *argv],
            capture_output=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], "HOME": str(home), **env},
            timeout=60,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr, 0.0)

    yield run
    shutil.rmtree(home)


def test_another_user_neither_sees_nor_reaches_a_guest(
    inn: Inn, as_nobody: AsNobody, runtime_dir: Path, state_dir: Path
) -> None:
    assert inn("create", "mine").code == 0
    try:
        assert inn("start", "mine").code == 0
        listed = as_nobody(*INN, "ls", "--format", "json")
        assert listed.code == 0, listed.error
        assert b"mine" not in listed.stdout
        for verb in (("start", "mine"), ("stop", "mine"), ("exec", "mine", "true"), ("rm", "mine")):
            done = as_nobody(*INN, *verb)
            assert done.code == 2, (verb, done.error)
            assert "mine" in done.error
        done = as_nobody(*INN, "ls", INN_RUNTIME_DIR=str(runtime_dir))
        assert done.code == 125
        assert f"the folder {runtime_dir} belongs to another user" in done.error
        done = as_nobody(*INN, "ls", INN_STATE_DIR=str(state_dir))
        assert done.code == 125
        assert str(state_dir) in done.error
        for name in ("keeper.sock", "vsock.sock", "agent.sock"):
            path = runtime_dir / "mine" / name
            connect = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"
            done = as_nobody(sys.executable, "-c", connect)
            assert "PermissionError" in done.error
        kept = [state_dir / "machines", runtime_dir]
        for path in (*kept, *(path for folder in kept for path in folder.rglob("*"))):
            assert path.lstat().st_mode & 0o077 == 0, path
        # The name is taken for its owner alone.
        assert as_nobody(*INN, "create", "mine").code == 0
        assert as_nobody(*INN, "rm", "mine").code == 0
        assert record(inn, "mine")["state"] == "running"
    finally:
        assert inn("rm", "-f", "mine").code == 0


def test_a_link_of_another_user_on_the_way_is_refused(inn: Inn, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a link that is another user's")
    real = tmp_path / "real"
    (real / "run").mkdir(mode=0o700, parents=True)
    link = tmp_path / "link"
    link.symlink_to(real)
    for variable in ("INN_RUNTIME_DIR", "INN_STATE_DIR", "INN_CACHE_DIR"):
        assert inn("ls", env={variable: str(link / "run")}).code == 0
    os.lchown(link, NOBODY, NOBODY)
    for variable in ("INN_RUNTIME_DIR", "INN_STATE_DIR", "INN_CACHE_DIR"):
        done = inn("ls", env={variable: str(link / "run")})
        assert done.code == 125
        assert f"{link} is a link of another user" in done.error
    open_to_all = tmp_path / "open"
    (open_to_all / "run").mkdir(mode=0o700, parents=True)
    open_to_all.chmod(0o777)
    done = inn("ls", env={"INN_RUNTIME_DIR": str(open_to_all / "run")})
    assert done.code == 125
    assert f"other users can write the folder {open_to_all}" in done.error


def test_a_runtime_folder_that_holds_other_things_keeps_them(inn: Inn, tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="odd-", dir="/tmp"))
    try:
        (folder / "documents").mkdir()
        (folder / "documents/thesis").write_text("years of work")
        assert inn("run", "--", "true", env={"INN_RUNTIME_DIR": str(folder)}).code == 0
        assert (folder / "documents/thesis").read_text() == "years of work"
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def blocked(inn: Inn) -> Iterator[str]:
    """The name of a machine whose start lasts until somebody stops it."""
    yield "race"
    assert inn("rm", "-f", "race").code == 0


CREATE = ("create", "race", "--append", "rdinit=/bin/cat")


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    _, error = process.communicate(timeout=60)
    return process.returncode, error.decode()


def test_two_creates_two_starts_two_stops(inn: Inn, background: Background) -> None:
    try:
        both = [background("create", "twin") for _ in range(2)]
        ends = sorted(finish(one) for one in both)
        assert [code for code, _ in ends] == [0, 2]
        assert "there is a machine named 'twin'" in ends[1][1]

        both = [background("start", "twin") for _ in range(2)]
        ends = [finish(one) for one in both]
        assert [code for code, _ in ends] == [0, 0]
        assert sum("twin is running already" in error for _, error in ends) == 1
        assert record(inn, "twin")["starts"] == 1

        both = [background("stop", "twin") for _ in range(2)]
        assert [finish(one)[0] for one in both] == [0, 0]
        assert record(inn, "twin")["state"] == "stopped"
    finally:
        assert inn("rm", "-f", "twin").code == 0


def test_a_stop_and_a_removal_while_it_starts(
    inn: Inn, blocked: str, background: Background, eventually: Eventually
) -> None:
    assert inn(*CREATE).code == 0
    starting = background("start", blocked)
    eventually(lambda: record(inn, blocked)["state"] == "starting")
    done = inn("rm", blocked)
    assert done.code == 125
    assert f"the machine '{blocked}' is running" in done.error
    assert inn("stop", blocked).code == 0
    code, error = finish(starting)
    assert code == 125
    assert "'race' was stopped while it started" in error
    assert record(inn, blocked)["reason"] == "stopped while it started"


VERBS = (
    CREATE,
    CREATE,
    ("start", "race"),
    ("start", "race"),
    ("stop", "-t", "0", "race"),
    ("rm", "race"),
    ("rm", "-f", "race"),
)


@pytest.mark.usefixtures("blocked")
@pytest.mark.parametrize("rounds", [8, pytest.param(30, marks=pytest.mark.slow)])
def test_random_races(inn: Inn, background: Background, runtime_dir: Path, rounds: int) -> None:
    """Two random commands at a time; each ends, none with a traceback, and the rest is true."""
    dice = random.Random(21)
    for number in range(rounds):
        pair = [dice.choice(VERBS) for _ in range(2)]
        running = [background(*verb) for verb in pair]
        for verb, process in zip(pair, running, strict=True):
            while verb[0] == "start" and process.poll() is None:
                # A start that won lasts until it is stopped.
                inn("stop", "-t", "0", "race")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
            code, error = finish(process)
            assert code in (0, 2, 125), (number, pair, error)
            assert "Traceback" not in error, (number, pair)
        listed = inn("ls")
        assert listed.code == 0
        states = re.findall(rb"^race +(\w+)", listed.stdout, re.MULTILINE)
        assert states in ([], [b"created"], [b"stopped"], [b"failed"]), (number, pair)
    # Who won is chance; that the name is good for a start afterwards is not.
    assert inn("rm", "-f", "race").code == 0
    assert inn("create", "race").code == 0
    done = inn("start", "race")
    assert done.code == 0, done.error
    assert inn("rm", "-f", "race").code == 0
    assert list(runtime_dir.iterdir()) == []


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_that_is_taken_is_named_with_its_holder(inn: Inn, protocol: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            taken.listen()
        port = taken.getsockname()[1]
        publish = f"{port}:80/{protocol}"
        assert inn("create", "door", "--network", "user", "--publish", publish).code == 0
        try:
            done = inn("start", "door")
            assert done.code == 125
            assert f"port {port}/{protocol} of 127.0.0.1 cannot be published" in done.error
            assert f"process {os.getpid()} (" in done.error
            assert "boot" not in done.error
        finally:
            assert inn("rm", "-f", "door").code == 0


def test_a_guest_that_floods_its_console_and_its_log_disturbs_nobody(
    inn: Inn, background: Background, state_dir: Path
) -> None:
    names = ("flood", "calm")
    try:
        for name in names:
            assert inn("create", name).code == 0
            assert inn("start", name).code == 0
        # As fast as it can, for some seconds.
        flood = "timeout 5 yes 0123456789abcdefghijklmnopqrstuvwxyz > /dev/console &"
        flood += "timeout 5 yes over | logger & timeout 5 yes > /dev/kmsg & wait"
        flooding = background("exec", "flood", "sh", "-c", flood)
        followed = background("logs", "-f", "--grep", "^0123", "flood")
        assert followed.stdout is not None
        assert followed.stdout.readline().startswith(b"0123")
        assert inn("exec", "calm", "echo", "fine").stdout == b"fine\n"
        assert inn("exec", "flood", "echo", "fine").stdout == b"fine\n"
        keeper = record(inn, "flood")["keeper_pid"]
        flooding.communicate(timeout=60)
        assert (memory_pss_bytes(keeper) or 0) < KEEPER_LIMIT_BYTES
        assert followed.stdout.readline().startswith(b"0123")
        for name in names:
            assert inn("stop", name).code == 0
        sizes = {path: path.stat().st_size for path in (state_dir / "machines/flood").iterdir()}
        assert all(size <= 1 << 20 for size in sizes.values()), sizes
        log = inn("logs", "--source", "guest", "flood").stdout
        assert b"records lost]" in log
    finally:
        for name in names:
            assert inn("rm", "-f", name).code == 0
