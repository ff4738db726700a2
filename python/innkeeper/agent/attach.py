# SPDX-License-Identifier: Apache-2.0
"""Kept sessions: starting them, attaching our own stdio to them, and their list."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from innkeeper.agent.frames import FrameDecoder
from innkeeper.agent.keys import KeyFilter
from innkeeper.agent.loop import Session
from innkeeper.agent.pb import vsh_pb2
from innkeeper.agent.session import Stdio, surroundings, with_terminal_type
from innkeeper.agent.setup import (
    Keep,
    WindowSize,
    attach_request,
    list_request,
    start_request,
)
from innkeeper.agent.surroundings import FORWARDED, OnWatch, window_of
from innkeeper.agent.text import clean_text
from innkeeper.agent.vsh import (
    PID_MAXIMUM,
    SESSION_ID,
    Failed,
    SessionProtocol,
    Started,
    failure_to_error,
    nonsense,
    read_answer,
)
from innkeeper.errors import GuestError, GuestLost, InnError, TimedOut
from innkeeper.model.machine import Command
from innkeeper.system import signals, terminal
from innkeeper.system.pump import InputStream, OutputStream, StreamSocket

_ANSWER_LIMIT_S = 30.0
# More than the agent keeps.
_LIST_LIMIT = 1024


@dataclass(frozen=True)
class KeptSession:
    """A session that outlives its connections.

    :ivar pid: of its process in the guest.
    :ivar argv: perhaps cut; empty is a login shell.
    :ivar attached: somebody sees its output now.
    :ivar age_s: since its start.
    :ivar exit_code: of an ended one that nobody has collected; else None.
    """

    id: str
    pid: int
    user: str
    argv: tuple[str, ...]
    tty: bool
    attached: bool
    age_s: float
    exit_code: int | None = None


@dataclass(frozen=True)
class Outcome:
    """How being attached ended.

    :ivar session_id: "" where the agent keeps no sessions.
    :ivar runs_on: the session goes on without us.
    """

    code: int
    session_id: str
    runs_on: bool


def list_kept(sock: StreamSocket) -> tuple[KeptSession, ...]:
    """The kept sessions of a guest, oldest first. The caller closes the socket.

    :raise GuestError: the agent keeps none, or did not answer.
    """
    answer = _ask(sock, list_request())
    started = read_answer(answer)
    if isinstance(started, Failed) or started.pid:
        raise _knows_none()
    if len(answer.sessions) > _LIST_LIMIT:
        raise nonsense("too long a list of sessions")
    return tuple(_described(session) for session in answer.sessions)


def start_detached(sock: StreamSocket, command: Command, *, tty: bool, stdin: bool) -> Started:
    """Start a command that nobody is attached to. The caller closes the socket.

    :param stdin: it may be written to later; else the command finds its end.
    :raise InnError: the guest cannot run it, or keeps no sessions.
    """
    window = WindowSize(terminal.DEFAULT_ROWS, terminal.DEFAULT_COLS) if tty else None
    keep = Keep(detached=True, stdin=stdin or tty)
    started = read_answer(_ask(sock, start_request(command, window, keep)))
    if isinstance(started, Failed):
        raise failure_to_error(started, command, started=False)
    if not started.session_id:
        raise _knows_none()
    return started


def run_kept(
    sock: StreamSocket,
    command: Command,
    stdio: Stdio,
    *,
    keys: bytes,
    watch_fd: int,
    on_watch: OnWatch,
) -> Outcome:
    """Run a command in a terminal of the guest that outlives us.

    Any signal to this process leaves the session, as the keys do.

    :param keys: typed at our terminal, they leave the session.
    :raise InnError: as `run_session`.
    """
    window = window_of(stdio.stdin)
    setup = start_request(with_terminal_type(command), window, Keep())
    protocol = SessionProtocol(command, setup=setup)
    return _attached(
        sock, protocol, command, stdio, keys=keys, watch_fd=watch_fd, on_watch=on_watch, tty=True
    )


def attach_kept(
    sock: StreamSocket,
    session_id: str,
    stdio: Stdio,
    *,
    keys: bytes,
    reads_stdin: bool,
    watch_fd: int,
    on_watch: OnWatch,
    on_started: Callable[[Started], None],
) -> Outcome:
    """Attach our stdio to a kept session: its last output first, then what comes.

    :param reads_stdin: else the session keeps its stdin as it is.
    :param on_started: called once attached, before any output is written.
    :raise GuestError: there is no such session, or somebody else attached meanwhile.
    :raise InnError: as `run_session`.
    """
    window = window_of(stdio.stdin) if terminal.is_terminal(stdio.stdin) else None
    protocol = SessionProtocol(Command(), setup=attach_request(session_id, window))

    def check(started: Started) -> None:
        if not started.session_id:
            raise _knows_none()
        on_started(started)

    return _attached(
        sock,
        protocol,
        Command(),
        stdio,
        keys=keys,
        watch_fd=watch_fd,
        on_watch=on_watch,
        on_started=check,
        reads_stdin=reads_stdin,
        failure=attach_failure,
    )


def attach_failure(failed: Failed) -> GuestError:
    """The error for a session that could not be attached to, or not any longer."""
    return GuestError(
        f"not attached to the session: {failed.description or 'the agent gave no reason'}",
        stage="session",
        fix="`inn sessions NAME` lists those that can be",
    )


def _attached(
    sock: StreamSocket,
    protocol: SessionProtocol,
    command: Command,
    stdio: Stdio,
    *,
    keys: bytes,
    watch_fd: int,
    on_watch: OnWatch,
    tty: bool = False,
    reads_stdin: bool = True,
    on_started: Callable[[Started], None] = lambda _: None,
    failure: Callable[[Failed], InnError] | None = None,
) -> Outcome:
    session_id = ""
    with contextlib.ExitStack() as stack:
        # Handlers first, raw mode second, as in `run_session`.
        numbers = (*FORWARDED, signals.WINDOW_CHANGE)
        around = surroundings(watch_fd, on_watch)
        around.signals = stack.enter_context(signals.SignalWatch(numbers))
        around.has_terminal = tty
        around.failure = failure
        around.window = lambda: window_of(stdio.stdin)

        def begin(started: Started) -> None:
            nonlocal session_id
            session_id = started.session_id
            on_started(started)
            around.has_terminal = tty or started.tty
            if around.has_terminal and terminal.is_terminal(stdio.stdin):
                stack.enter_context(terminal.raw_mode(stdio.stdin))
                if session_id and keys:
                    around.keys = KeyFilter(keys)

        around.on_started = begin
        stdin = InputStream(stdio.stdin)
        stdout = OutputStream(stdio.stdout, name="stdout")
        stderr = OutputStream(stdio.stderr, name="stderr")
        for stream in (stdin, stdout, stderr):
            stack.callback(stream.close)
        session = Session(
            sock,
            protocol,
            command,
            stdin=stdin if reads_stdin else None,
            stdout=stdout,
            stderr=stderr,
            around=around,
        )
        code = session.run()
        return Outcome(code, session_id, bool(session_id) and not session.has_ended)


def _ask(sock: StreamSocket, request: bytes) -> vsh_pb2.SetupConnectionResponse:
    """The agent's answer to a first message.

    :raise TimedOut: it took too long.
    :raise GuestLost: the connection ended.
    """
    deadline = time.monotonic() + _ANSWER_LIMIT_S
    decoder = FrameDecoder()
    try:
        sock.settimeout(_ANSWER_LIMIT_S)
        sock.sendall(request)
        while True:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            data = sock.recv(65536)
            if not data:
                break
            for payload in decoder.feed(data):
                return vsh_pb2.SetupConnectionResponse.FromString(payload)
    except TimeoutError as exc:
        raise TimedOut(
            f"the guest's agent did not answer within {_ANSWER_LIMIT_S:g} s", stage="session"
        ) from exc
    except DecodeError as exc:
        raise nonsense("an answer that cannot be read") from exc
    except OSError as exc:
        raise GuestLost("the connection to the guest was lost", stage="session") from exc
    raise GuestLost("the connection to the guest was lost", stage="session")


def _described(session: vsh_pb2.KeptSession) -> KeptSession:
    if (
        not session.id
        or not SESSION_ID.fullmatch(session.id)
        or not 0 < session.pid <= PID_MAXIMUM
        or not 0 <= session.code <= 255
    ):
        raise nonsense("a list of sessions that makes no sense")
    return KeptSession(
        id=session.id,
        pid=session.pid,
        user=clean_text(session.user),
        argv=tuple(clean_text(word) for word in session.argv),
        tty=session.tty,
        attached=session.attached,
        age_s=session.age_ms / 1000,
        exit_code=session.code if session.ended else None,
    )


def _knows_none() -> GuestError:
    return GuestError(
        "the guest's agent keeps no sessions",
        stage="session",
        fix="start the machine again, for an agent of this version",
    )
