# SPDX-License-Identifier: Apache-2.0
"""Running a command in a guest: with our own stdio, or with its output captured."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

import msgspec

from innkeeper.agent.loop import Session
from innkeeper.agent.surroundings import (
    FORWARDED,
    OnWatch,
    Surroundings,
    TimeLimit,
    Watch,
    window_of,
)
from innkeeper.agent.vsh import SessionProtocol
from innkeeper.errors import InnError
from innkeeper.model.machine import Command
from innkeeper.system import signals, terminal
from innkeeper.system.pump import InputStream, OutputStream, Source, StreamSocket

__all__ = [
    "Captured",
    "Kept",
    "Memory",
    "Stdio",
    "capture_session",
    "exec_capture",
    "run_session",
    "wants_tty",
]

CAPTURE_LIMIT = 16 << 20


@dataclass(frozen=True)
class Stdio:
    """Inherited descriptors; a closed one is allowed."""

    stdin: int = 0
    stdout: int = 1
    stderr: int = 2


@dataclass(frozen=True)
class Captured:
    """What a command left behind.

    :ivar truncated: it wrote more than was kept.
    """

    code: int
    stdout: bytes
    stderr: bytes
    truncated: bool = False


def _no_word() -> InnError | None:
    return None


def wants_tty(stdio: Stdio) -> bool:
    """True when a session over these descriptors should have a terminal."""
    return terminal.is_terminal(stdio.stdin) and terminal.is_terminal(stdio.stdout)


def run_session(
    sock: StreamSocket,
    command: Command,
    stdio: Stdio,
    *,
    tty: bool,
    watch_fd: int | None = None,
    on_watch: OnWatch = _no_word,
    deadline: float | None = None,
    timeout_s: float | None = None,
) -> int:
    """Run the command between the guest and our own stdio.

    The caller closes the socket, which also ends what still runs. Terminal,
    signal handlers and descriptors are left as they were found.

    :param tty: give the command a terminal. Our own goes into raw mode meanwhile,
        where stdin is one.
    :param watch_fd: something beside the guest that can end the session, such as
        the keeper's control socket. When it is readable, `on_watch` is called: it
        reads, and returns the error to end with, or None to go on.
    :param deadline: when the command must have ended, on the monotonic clock.
    :param timeout_s: the time limit behind `deadline`, for the error's text.
    :return: the exit code: the command's own; 141 when stdout has no reader any
        more; 128+N when signal N made us give up. With `tty`, that is any signal
        to this process, else a second SIGINT or SIGTERM.
    :raise CommandNotFound: the guest has no such command.
    :raise CommandNotExecutable: it cannot be executed.
    :raise GuestLost: the connection ended and `on_watch` gave no reason.
    :raise TimedOut: it did not end before the deadline.
    :raise InnError: what `on_watch` returned; other failures of the guest or the host.
    """
    with contextlib.ExitStack() as stack:
        # Handlers first, raw mode second: between them a signal could end us
        # without the terminal being restored.
        numbers = (*FORWARDED, signals.WINDOW_CHANGE) if tty else FORWARDED
        caught = stack.enter_context(signals.SignalWatch(numbers))
        stdin = InputStream(stdio.stdin)
        stack.callback(stdin.close)
        stdout = OutputStream(stdio.stdout, name="stdout")
        stack.callback(stdout.close)
        stderr = OutputStream(stdio.stderr, name="stderr")
        stack.callback(stderr.close)
        around = surroundings(watch_fd, on_watch, deadline, timeout_s)
        around.signals = caught
        window = None
        if tty:
            command = with_terminal_type(command)
            window = window_of(stdio.stdin)
            around.has_terminal = True
            around.window = lambda: window_of(stdio.stdin)
            if terminal.is_terminal(stdio.stdin):
                around.on_started = lambda _: stack.enter_context(terminal.raw_mode(stdio.stdin))
        protocol = SessionProtocol(command, window=window)
        session = Session(
            sock, protocol, command, stdin=stdin, stdout=stdout, stderr=stderr, around=around
        )
        return session.run()


def surroundings(
    watch_fd: int | None,
    on_watch: OnWatch,
    deadline: float | None = None,
    timeout_s: float | None = None,
) -> Surroundings:
    """What may end a session, from the parameters of :func:`run_session`."""
    return Surroundings(
        watch=None if watch_fd is None else Watch(watch_fd, on_watch),
        limit=None if deadline is None else TimeLimit(deadline, timeout_s),
    )


def with_terminal_type(command: Command) -> Command:
    """The command with our terminal's TERM."""
    env = {"TERM": terminal.terminal_type(), **command.env}
    return msgspec.structs.replace(command, env=env)


class Memory:
    """Bytes as a session's stdin."""

    fd = -1

    def __init__(self, data: bytes) -> None:
        self._rest = memoryview(data)

    def read(self) -> bytes:
        """The next bytes, b"" at the end."""
        chunk, self._rest = self._rest[: 64 << 10], self._rest[64 << 10 :]
        return bytes(chunk)


class Kept:
    """A sink that keeps the first bytes.

    :ivar truncated: there were more.
    """

    fd = -1
    pending = 0

    def __init__(self, limit: int) -> None:
        self._room = limit
        self.data = bytearray()
        self.truncated = False

    def put(self, data: bytes) -> None:
        """Keep what there is room for."""
        self.truncated = self.truncated or len(data) > self._room
        self.data += data[: self._room]
        self._room -= min(len(data), self._room)

    def flush(self, *, polled: bool) -> None:
        """Nothing waits."""


def capture_session(
    sock: StreamSocket,
    command: Command,
    *,
    stdin_fd: int | None = None,
    stdin: bytes = b"",
    max_bytes: int = CAPTURE_LIMIT,
    watch_fd: int | None = None,
    on_watch: OnWatch = _no_word,
    deadline: float | None = None,
    timeout_s: float | None = None,
) -> Captured:
    """Run the command and keep its output: of each stream the first `max_bytes` bytes.

    Its stdin is the descriptor `stdin_fd`, else the bytes `stdin`. Signals to
    this process are forwarded as in :func:`run_session`; where that gives the
    session up, the code is 128+N. The caller closes the socket.

    :raise InnError: as :func:`run_session`.
    """
    kept, complaints = Kept(max_bytes), Kept(max_bytes)
    with contextlib.ExitStack() as stack:
        around = surroundings(watch_fd, on_watch, deadline, timeout_s)
        around.signals = stack.enter_context(signals.SignalWatch(FORWARDED))
        source: Source = Memory(stdin)
        if stdin_fd is not None:
            inherited = InputStream(stdin_fd)
            stack.callback(inherited.close)
            source = inherited
        session = Session(
            sock,
            SessionProtocol(command),
            command,
            stdin=source,
            stdout=kept,
            stderr=complaints,
            around=around,
        )
        code = session.run()
    truncated = kept.truncated or complaints.truncated
    return Captured(code, bytes(kept.data), bytes(complaints.data), truncated)


def exec_capture(
    sock: StreamSocket, command: Command, *, stdin: bytes = b"", timeout_s: float | None = None
) -> Captured:
    """:func:`capture_session` for the simple case.

    :raise InnError: as :func:`run_session`.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    return capture_session(sock, command, stdin=stdin, deadline=deadline, timeout_s=timeout_s)
