# SPDX-License-Identifier: Apache-2.0
"""Real guests: fixtures that call `inn` as a user does."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from debian_images import provide_argo, provide_debian
from foreign import Build, build_initrd
from guests import BOOT_LIMIT_S, INN, Inn, Result, Running, Start
from openssh import HOST, NAME, Done, Ssh

from innkeeper.model.recipe import Recipe


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/system" in str(item.path):
            item.add_marker(pytest.mark.system)
            item.add_marker(pytest.mark.timeout(180))


@pytest.fixture(scope="session", autouse=True)
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's own INN_STATE_DIR: its machines are not the user's."""
    folder = tmp_path_factory.mktemp("state")
    os.environ["INN_STATE_DIR"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def debian_image(state_dir: Path) -> str:
    """The name of a Debian image with systemd; the first run on a host builds it."""
    return provide_debian("debian", Recipe())


@pytest.fixture(scope="session")
def argo_image(state_dir: Path) -> str:
    """The name of the image of recipes/argo: a small Debian with programs that use sockets."""
    return provide_argo()


@pytest.fixture
def inn() -> Inn:
    """Run `inn` with these arguments to its end."""

    def run(
        *arguments: str,
        stdin: bytes | int | None = None,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Result:
        since = time.monotonic()
        done = subprocess.run(
            [*INN, *arguments],
            input=stdin if isinstance(stdin, bytes) else None,
            stdin=stdin
            if isinstance(stdin, int)
            else subprocess.DEVNULL
            if stdin is None
            else None,
            capture_output=True,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            timeout=BOOT_LIMIT_S,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr, time.monotonic() - since)

    return run


@pytest.fixture
def initrd_with(tmp_path: Path) -> Build:
    """Make an initramfs: the tiny one with this script for its /init."""
    return functools.partial(build_initrd, tmp_path / "initrd")


@pytest.fixture
def background() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `inn` with these arguments and go on; what still runs at the end is killed by pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*INN, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def start_inn(runtime_dir: Path) -> Iterator[Start]:
    """Start `inn run --name NAME ...` and go on; what still runs at the end is killed by pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, name: str = "busy") -> Running:
        process = subprocess.Popen(
            [*INN, "run", "--name", name, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return Running(process, name, runtime_dir)

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture(scope="module")
def ssh_config(state_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A configuration of ssh, and a machine that runs for all tests of this file."""
    for arguments in (["create", NAME], ["start", NAME]):
        subprocess.run([*INN, *arguments], check=True, capture_output=True)
    file = tmp_path_factory.mktemp("ssh") / "config"
    file.write_bytes(subprocess.run([*INN, "ssh-config"], check=True, capture_output=True).stdout)
    file.chmod(0o600)
    yield file
    subprocess.run([*INN, "rm", "-f", NAME], check=True, capture_output=True)


@pytest.fixture
def ssh(ssh_config: Path) -> Ssh:
    """Run `ssh`, or another program of its family, to its end."""

    def run(*arguments: str, program: str = "ssh", stdin: bytes = b"") -> Done:
        return subprocess.run(
            [program, "-F", str(ssh_config), *arguments],
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def guest_programs(ssh_config: Path) -> str:
    """The host's rsync and ssh-agent in the guest, with their libraries; the latter's path."""
    rsync, agent = shutil.which("rsync"), shutil.which("ssh-agent")
    assert rsync is not None, "scripts/packages.list names it"
    assert agent is not None, "scripts/packages.list names its package"
    linked = subprocess.run(["ldd", rsync, agent], capture_output=True, check=True, text=True)
    files = {rsync, agent, *re.findall(r"(/\S+) \(0x", linked.stdout)}
    archive = subprocess.run(
        ["tar", "-chPf", "-", *sorted(files)], capture_output=True, check=True
    ).stdout
    unpack = "tar -xf - -C / 2>/dev/null; rsync --version"
    subprocess.run(
        ["ssh", "-F", str(ssh_config), HOST, unpack], input=archive, check=True, capture_output=True
    )
    return agent
