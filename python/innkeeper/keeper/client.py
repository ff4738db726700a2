# SPDX-License-Identifier: Apache-2.0
"""Asking a running guest's keeper: one operation on one connection to its socket."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import msgspec

from innkeeper.errors import (
    GuestError,
    GuestLost,
    InnError,
    ProtocolError,
    TimedOut,
    error_from_dict,
)
from innkeeper.keeper.messages import (
    LINE_LIMIT_BYTES,
    Answer,
    Attach,
    Operation,
    Refused,
    StateChanged,
    Watch,
)
from innkeeper.registry.layout import Layout
from innkeeper.system.sockets import StreamSocket, connect_unix, hang_up, wait_readable

_CONNECT_LIMIT_S = 5.0
_HANG_UP_LIMIT_S = 1.0


class Asked:
    """An operation that a keeper was asked for; others can be asked before it has answered.

    :raise GuestError: there is no keeper.
    """

    def __init__(self, layout: Layout, name: str, operation: Operation) -> None:
        self._name = name
        self._stack = contextlib.ExitStack()
        self._sock = self._stack.enter_context(_asked(layout, name, operation))

    def answer(self, *, timeout_s: float) -> Answer:
        """Wait until it is done; what the keeper said then. To be called once.

        :raise GuestError: the keeper went away.
        :raise TimedOut: it did not answer in time.
        :raise InnError: it refused, with its reason.
        """
        answer = next(_answers(self._sock, time.monotonic() + timeout_s), None)
        if answer is None:
            raise GuestError(f"the keeper of {self._name!r} went away", stage="keeper")
        if isinstance(answer, Refused):
            raise error_from_dict(answer.error)
        return answer

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._stack.close()


def ask_keeper(layout: Layout, name: str, operation: Operation, *, timeout_s: float) -> Answer:
    """Have the keeper of a running guest do something, and wait until it is done.

    :raise GuestError: there is no keeper, or it went away.
    :raise TimedOut: it did not answer in time.
    :raise InnError: it refused, with its reason.
    """
    with contextlib.closing(Asked(layout, name, operation)) as asked:
        return asked.answer(timeout_s=timeout_s)


def watch_states(layout: Layout, name: str, *, deadline: float | None) -> Iterator[StateChanged]:
    """The present state of a running guest and every later one, until it ends.

    :param deadline: on the monotonic clock.
    :raise GuestError: there is no keeper.
    :raise TimedOut: the deadline passed.
    """
    with _asked(layout, name, Watch()) as sock:
        for answer in _answers(sock, deadline):
            if isinstance(answer, StateChanged):
                yield answer


class StateWatch:
    """A connection that hears of a running guest's states, for a loop that waits for many.

    :raise GuestError: there is no keeper.
    """

    def __init__(self, layout: Layout, name: str) -> None:
        self._stack = contextlib.ExitStack()
        self._sock = self._stack.enter_context(_asked(layout, name, Watch()))
        self._news = _answers(self._sock, 0.0)

    def fileno(self) -> int:
        """Readable when there is news."""
        return self._sock.fileno()

    def take(self) -> tuple[list[StateChanged], bool]:
        """The states that were told and not yet taken, and whether that was all."""
        found: list[StateChanged] = []
        try:
            for change in self._news:
                if isinstance(change, StateChanged):
                    found.append(change)  # noqa: PERF401 - kept when the next one raises
        except TimedOut:
            self._news = _answers(self._sock, 0.0)
            return found, False
        return found, True

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._stack.close()


class GuestWitness:
    """News of a running guest that somebody else started. Made by :func:`witness`."""

    def __init__(self, layout: Layout, name: str, sock: StreamSocket) -> None:
        self.vsock_path = layout.guest(name).vsock
        self._layout = layout
        self._name = name
        self._sock = sock
        self._news = _answers(sock, 0.0)

    def fileno(self) -> int:
        """Readable when there is news of the guest."""
        return self._sock.fileno()

    def explain(self) -> InnError | None:
        """Take the news: the error to end the command with, or None to go on."""
        try:
            for change in self._news:
                if isinstance(change, StateChanged) and change.state in ("stopped", "failed"):
                    return self._lost(change.state, change.reason)
        except TimedOut:
            # A generator that raised is over; the next news needs another.
            self._news = _answers(self._sock, 0.0)
            return None
        return self._lost("gone", "its keeper went away")

    def _lost(self, state: str, reason: str) -> GuestLost:
        told = f": {reason}" if reason else ""
        return GuestLost(f"the guest {self._name!r} is {state}{told}", stage="run")


@contextlib.contextmanager
def witness(layout: Layout, name: str) -> Iterator[GuestWitness]:
    """Follow a running guest while a command runs in it.

    :raise GuestError: it has no keeper.
    """
    with _asked(layout, name, Watch()) as sock:
        yield GuestWitness(layout, name, sock)


@contextlib.contextmanager
def console_connection(
    layout: Layout, name: str, *, read_only: bool
) -> Iterator[tuple[StreamSocket, bytes]]:
    """A connection that carries the console's bytes, and the first of them.

    :raise GuestError: there is no keeper, or it went away.
    :raise InnError: it refused, with its reason.
    """
    with _asked(layout, name, Attach(read_only)) as sock:
        buffer = bytearray()
        answer = _answer(sock, buffer, time.monotonic() + _CONNECT_LIMIT_S)
        if answer is None:
            raise GuestError(f"the keeper of {name!r} went away", stage="keeper")
        if isinstance(answer, Refused):
            raise error_from_dict(answer.error)
        try:
            yield sock, bytes(buffer)
        finally:
            hang_up(sock, timeout_s=_HANG_UP_LIMIT_S)


@contextlib.contextmanager
def _asked(layout: Layout, name: str, operation: Operation) -> Iterator[StreamSocket]:
    path = layout.guest(name).keeper
    try:
        sock = connect_unix(path, timeout_s=_CONNECT_LIMIT_S)
    except OSError as exc:
        raise GuestError(
            f"cannot reach the keeper of {name!r}: {exc.strerror or exc}",
            stage="keeper",
            fix="`inn ls` shows which guests run",
        ) from exc
    with sock:
        sock.sendall(msgspec.json.encode(operation) + b"\n")
        yield sock


def _answers(sock: StreamSocket, deadline: float | None) -> Iterator[Answer]:
    buffer = bytearray()
    while (answer := _answer(sock, buffer, deadline)) is not None:
        yield answer


def _answer(sock: StreamSocket, buffer: bytearray, deadline: float | None) -> Answer | None:
    """The next answer, None where the keeper went away; what came after it stays in `buffer`."""
    while b"\n" not in buffer:
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not wait_readable(sock, left_s):
            raise TimedOut("the keeper did not answer in time", stage="keeper")
        try:
            data = sock.recv(65536)
        except ConnectionError:
            return None
        if not data:
            return None
        buffer += data
        if len(buffer) > LINE_LIMIT_BYTES:
            raise ProtocolError("the keeper sent too long a line", stage="keeper")
    line, _, rest = bytes(buffer).partition(b"\n")
    buffer[:] = rest
    answer: Answer = msgspec.json.decode(line, type=Answer)
    return answer
