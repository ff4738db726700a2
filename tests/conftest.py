# SPDX-License-Identifier: Apache-2.0
"""Isolation of a test run, and the guard that makes leaks fail tests.

The run has its own INN_RUNTIME_DIR, so that it neither sees nor disturbs the
guests of the user who starts it. INN_CACHE_DIR stays the real one: images are
read-only and dear to build.

The test process is a child subreaper (prctl(2)): what a killed keeper leaves
behind becomes our child and is seen here rather than at init.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36

# What is being closed by another thread or killed by the kernel gets this long.
_GRACE_S = 1.5

# Descriptors that grpc opens at its first use and keeps until the process ends.
_GRPC_KEEPS = ("anon_inode:[eventfd]", "anon_inode:[eventpoll]", "anon_inode:[timerfd]")

_RUNTIME_DIR = pytest.StashKey[Path]()
_AT_START = pytest.StashKey["Snapshot"]()


def pytest_configure(config: pytest.Config) -> None:
    """Become a subreaper; move the runtime folder to a short path of its own."""
    # Under nohup or in a shell's background these are ignored, which children
    # inherit and `inn` respects; the tests are about a program that was not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    # Short: a Unix socket's path holds 107 bytes (unix(7)).
    folder = Path(tempfile.mkdtemp(prefix="inn-", dir="/tmp"))
    os.environ["INN_RUNTIME_DIR"] = str(folder)
    config.stash[_RUNTIME_DIR] = folder
    config.stash[_AT_START] = Snapshot.take(folder)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run for what fixtures of a wider scope than one test left behind."""
    folder = session.config.stash[_RUNTIME_DIR]
    start = session.config.stash[_AT_START]
    # Pytest itself has descriptors open by now; each test has accounted for its own.
    leaks = [line for line in find_leaks(start, folder) if not line.startswith("descriptor")]
    if leaks:
        sys.stderr.write("\n  ".join(["\nleft behind by the whole run:", *leaks]) + "\n")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the runtime folder."""
    if _RUNTIME_DIR in config.stash:
        shutil.rmtree(config.stash[_RUNTIME_DIR], ignore_errors=True)


@pytest.fixture(scope="session")
def runtime_dir(pytestconfig: pytest.Config) -> Path:
    """The run's own INN_RUNTIME_DIR."""
    return pytestconfig.stash[_RUNTIME_DIR]


@pytest.fixture(autouse=True)
def _leak_guard(runtime_dir: Path) -> Iterator[None]:
    """Fail a test that leaves processes, descriptors, runtime folders or mounts."""
    before = Snapshot.take(runtime_dir)
    yield
    leaks = find_leaks(before, runtime_dir)
    if leaks:
        pytest.fail("the test left behind:\n  " + "\n  ".join(leaks), pytrace=False)


@dataclass(frozen=True)
class Snapshot:
    """What exists at one moment."""

    children: frozenset[int]
    descriptors: frozenset[tuple[int, str]]
    runtime_entries: frozenset[str]
    mounts: frozenset[str]

    @classmethod
    def take(cls, runtime_dir: Path) -> Snapshot:
        return cls(
            children=frozenset(_children()),
            descriptors=frozenset(_descriptors()),
            runtime_entries=frozenset(path.name for path in runtime_dir.iterdir()),
            mounts=frozenset(_mounts()),
        )


def find_leaks(before: Snapshot, runtime_dir: Path) -> list[str]:
    """One line for each thing that is there now and was not `before`.

    Ends leaked processes, each by its pid, so that the next test starts clean.
    """
    deadline = time.monotonic() + _GRACE_S
    collected = False
    while True:
        _reap_zombies(before.children)
        now = Snapshot.take(runtime_dir)
        processes = sorted(now.children - before.children)
        descriptors = sorted(now.descriptors - before.descriptors)
        entries = sorted(now.runtime_entries - before.runtime_entries)
        mounts = sorted(now.mounts - before.mounts)
        if not (processes or descriptors or entries or mounts):
            return []
        if not collected:
            # An exception's traceback can hold on to an object that owns a descriptor.
            gc.collect()
            collected = True
        elif time.monotonic() > deadline:
            break
        time.sleep(0.01)
    leaks = [f"process {pid}: {_command_line(pid)}" for pid in processes]
    leaks += [f"descriptor {number}: {target}" for number, target in descriptors]
    leaks += [f"runtime entry: {name}" for name in entries]
    leaks += [f"mount: {mount}" for mount in mounts]
    for pid in processes:
        _end(pid)
    for name in entries:
        shutil.rmtree(runtime_dir / name, ignore_errors=True)
    return leaks


def _children() -> Iterator[int]:
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield from map(int, (task / "children").read_text().split())


def _descriptors() -> Iterator[tuple[int, str]]:
    for entry in list(Path("/proc/self/fd").iterdir()):
        # The descriptor of this very listing is gone by now.
        with contextlib.suppress(FileNotFoundError):
            target = str(entry.readlink())
            if not ("grpc" in sys.modules and target in _GRPC_KEEPS):
                yield int(entry.name), target


def _mounts() -> Iterator[str]:
    # Field 5 of proc_pid_mountinfo(5) is the mount point.
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        yield line.split()[4]


def _reap_zombies(known: frozenset[int]) -> None:
    """Reap ended orphans that came to us as subreaper; nobody else waits for them."""
    for pid in set(_children()) - known:
        with contextlib.suppress(ChildProcessError):
            if _state(pid) == "Z":
                os.waitpid(pid, os.WNOHANG)


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _state(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return "?"
    # The name in parentheses may hold anything, also parentheses.
    return stat.rpartition(") ")[2][:1]


def _command_line(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return "?"
    return raw.replace(b"\0", b" ").decode("utf-8", "replace").strip() or f"state {_state(pid)}"


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Wait for a condition for at most 10 s, for what has no event to wait on."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail("the condition did not come true within 10 s")
            time.sleep(0.01)

    return wait
