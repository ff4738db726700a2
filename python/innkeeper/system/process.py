# SPDX-License-Identifier: Apache-2.0
"""Starting and ending processes: the one `spawn` of the project, and `run_tool`.

Every child has an argv list (no shell), an explicit environment, an explicit
list of inherited descriptors and dies with its parent (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from innkeeper.errors import HostError, MissingProgram

# prctl(2), linux/prctl.h
_PR_SET_PDEATHSIG = 1

# What a child may see of our environment; everything else is passed by name.
_ENVIRONMENT = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TERM", "TMPDIR", "TZ", "USER")

# Loaded before any fork: dlopen in a forked child is not async-signal-safe.
_libc = ctypes.CDLL(None, use_errno=True)


# Children that were left to themselves and not reaped yet: a program that starts
# guests for weeks would else collect a zombie with each.
_left: list[int] = []


def base_environment() -> dict[str, str]:
    """The part of our environment that every child gets."""
    return {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ}


def _die_with_parent(parent_pid: int) -> Callable[[], None]:
    """A pre-exec step: SIGKILL to the child when the parent's main thread ends.

    The signal follows the *thread* that forked (prctl(2)), so callers spawn
    from their main thread. A parent that died before the call is seen by its
    pid having changed.
    """

    def step() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent_pid:
            os._exit(127)

    return step


class Child:
    """A running child: a `Popen` and a pidfd, both released by :meth:`end`.

    The pidfd becomes readable when the child has ended, so that an event loop
    can watch it without threads or SIGCHLD handlers.
    """

    def __init__(self, popen: subprocess.Popen[bytes], name: str) -> None:
        self.name = name
        self.pid = popen.pid
        self._popen = popen
        self.pidfd = os.pidfd_open(popen.pid)

    @property
    def stderr_fd(self) -> int:
        """The pipe of the child's stderr (non-blocking), -1 where there is none."""
        pipe = self._popen.stderr
        return -1 if pipe is None or pipe.closed else pipe.fileno()

    def read_stderr(self, size_bytes: int = 4096) -> bytes | None:
        """What the child wrote to stderr; None when there is nothing now, b"" at the end."""
        if self.stderr_fd < 0:
            return b""
        try:
            return os.read(self.stderr_fd, size_bytes)
        except BlockingIOError:
            return None

    def poll(self) -> int | None:
        """The return code if the child has ended (-N after signal N), else None."""
        return self._popen.poll()

    def wait(self, timeout_s: float) -> int | None:
        """Wait for the end; None when the time is over first."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._popen.wait(timeout_s)
        return None

    def signal(self, number: int) -> None:
        """Send a signal; a child that has ended already is fine."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.send_signal(number)

    def leave(self) -> None:
        """Let the child live on without us; the next :func:`spawn` after its end reaps it."""
        _left.append(self.pid)
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        # Else Popen's destructor warns of a child that still runs.
        self._popen.returncode = 0

    def terminate(self) -> None:
        """Ask the child to end (SIGTERM)."""
        self.signal(signal.SIGTERM)

    def end(self, grace_s: float = 0.0) -> int:
        """End the child: SIGTERM and `grace_s` if that is positive, then SIGKILL. Reaps it.

        Idempotent. Returns the return code.
        """
        if self.poll() is None and grace_s > 0:
            self.signal(signal.SIGTERM)
            self.wait(grace_s)
        if self.poll() is None:
            self.signal(signal.SIGKILL)
        code = self._popen.wait()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()
        return code


def spawn(
    argv: Sequence[str],
    *,
    name: str,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    capture_stderr: bool = False,
    new_session: bool = False,
    die_with_parent: bool = True,
) -> Child:
    """Start a child process.

    :param argv: program and arguments; the program is looked up in PATH.
    :param env: variables beside :func:`base_environment`.
    :param stdin: a descriptor; default /dev/null. So are `stdout` and `stderr`.
    :param capture_stderr: a pipe for stderr, read by :meth:`Child.read_stderr`.
    :param new_session: give the child its own session, out of reach of the
        terminal's signals.
    :raise MissingProgram: the program does not exist.
    :raise HostError: it could not be started.
    """
    _reap_left()
    null = subprocess.DEVNULL
    try:
        popen = subprocess.Popen(
            list(argv),
            stdin=null if stdin is None else stdin,
            stdout=null if stdout is None else stdout,
            stderr=subprocess.PIPE if capture_stderr else null if stderr is None else stderr,
            env={**base_environment(), **(env or {})},
            pass_fds=tuple(pass_fds),
            start_new_session=new_session,
            preexec_fn=_die_with_parent(os.getpid()) if die_with_parent else None,  # noqa: PLW1509 - callers have one thread
        )
    except FileNotFoundError as exc:
        raise MissingProgram(
            f"{argv[0]} is not installed", stage=name, fix="`make setup` names the packages"
        ) from exc
    except OSError as exc:
        raise HostError(f"cannot start {argv[0]}: {exc.strerror}", stage=name) from exc
    if popen.stderr is not None:
        os.set_blocking(popen.stderr.fileno(), False)
    return Child(popen, name)


def _reap_left() -> None:
    for pid in tuple(_left):
        try:
            ended = os.waitpid(pid, os.WNOHANG)[0] != 0
        except ChildProcessError:
            ended = True  # in a forked child, or somebody else reaped it
        if ended:
            _left.remove(pid)


@dataclass(frozen=True)
class Completed:
    """What a finished tool left behind."""

    returncode: int
    stdout: bytes
    stderr: bytes

    def error_lines(self, count: int = 8) -> tuple[str, ...]:
        """The last lines of stderr as evidence for an error."""
        return tuple(self.stderr.decode("utf-8", "replace").strip().splitlines()[-count:])


def run_tool(
    argv: Sequence[str],
    *,
    stage: str,
    timeout_s: float,
    stdin_bytes: bytes = b"",
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> Completed:
    """Run a program to its end and keep its output in memory.

    :raise MissingProgram: the program does not exist.
    :raise HostError: with `check`, it returned non-zero; or the time was over
        (the program has been killed then).
    """
    try:
        done = subprocess.run(
            list(argv),
            input=stdin_bytes,
            capture_output=True,
            timeout=timeout_s,
            cwd=cwd,
            env={**base_environment(), **(env or {})},
            check=False,
        )
    except FileNotFoundError as exc:
        raise MissingProgram(
            f"{argv[0]} is not installed", stage=stage, fix="`make setup` names the packages"
        ) from exc
    except subprocess.TimeoutExpired as exc:
        raise HostError(
            f"{argv[0]} did not end within {timeout_s:.0f} s and was killed", stage=stage
        ) from exc
    result = Completed(done.returncode, done.stdout, done.stderr)
    if check and done.returncode != 0:
        raise HostError(
            f"{argv[0]} failed with exit code {done.returncode}",
            stage=stage,
            evidence=result.error_lines(),
        )
    return result


def become(argv: Sequence[str]) -> NoReturn:
    """Run a program in our place, with our environment and descriptors.

    :raise MissingProgram: it does not exist.
    :raise HostError: it cannot be executed.
    """
    try:
        os.execvp(argv[0], list(argv))  # noqa: S606 - no shell is wanted
    except FileNotFoundError as exc:
        raise MissingProgram(f"{argv[0]} is not installed", stage="plan") from exc
    except OSError as exc:
        raise HostError(f"cannot execute {argv[0]}: {exc.strerror}", stage="plan") from exc


def find_program(name: str) -> str | None:
    """The path of a program in PATH or the administrators' folders, or None."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=f"{path}:/usr/sbin:/sbin:/usr/lib/qemu:/usr/libexec")


def require_program(name: str, *, stage: str, fix: str, brief: str = "") -> str:
    """As :func:`find_program`, for one that must be there.

    :param brief: says what is missing, if the program's name does not say enough.
    :raise MissingProgram: it is not installed.
    """
    path = find_program(name)
    if path is None:
        raise MissingProgram(brief or f"{name} is not installed", stage=stage, fix=fix)
    return path


def wait_for_pid(pid: int, timeout_s: float) -> bool:
    """True when there is no process with this pid, or it ended within the time."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        return wait_for_exit(pidfd, timeout_s)
    finally:
        os.close(pidfd)


def wait_for_exit(pidfd: int, timeout_s: float) -> bool:
    """True when the process behind a pidfd ended within the time."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    while True:
        left_ms = max(0.0, deadline - time.monotonic()) * 1000
        if poller.poll(left_ms):
            return True
        if time.monotonic() >= deadline:
            return False
