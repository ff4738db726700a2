# SPDX-License-Identifier: Apache-2.0
"""The other end of the keeper: starts it, follows it, and cleans up after it if it dies."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from innkeeper.errors import (
    GuestError,
    GuestLost,
    InnError,
    KeeperLost,
    ProtocolError,
    TimedOut,
    error_from_dict,
)
from innkeeper.keeper.launch import Launched, launch_keeper, take_early
from innkeeper.keeper.messages import LINE_LIMIT_BYTES, Detach, Ended, Event, Failed, Ready, Stop
from innkeeper.keeper.plan import RunPlan
from innkeeper.keeper.remains import remove_remains
from innkeeper.system.files import close_descriptor, open_append
from innkeeper.system.interrupt import held_back
from innkeeper.system.process import Child, wait_for_exit
from innkeeper.system.sockets import StreamSocket, wait_readable

# Teardown kills QEMU and unlinks a few files. The rest is for a loaded host.
_TEARDOWN_LIMIT_S = 10.0


class RunLimit(msgspec.Struct, frozen=True):
    """The user's time limit for a whole run.

    :ivar ends_at: on the monotonic clock.
    """

    seconds: float
    ends_at: float

    @classmethod
    def of(cls, seconds: float) -> RunLimit:
        """A limit that starts to count now."""
        return cls(seconds, time.monotonic() + seconds)


class KeeperHandle:
    """A running keeper, seen by its starter. Made by :func:`started`.

    :ivar ended: its last message, once it has come.
    :ivar failure: the error it reported, if it did.
    """

    def __init__(self, child: Child, sock: StreamSocket, plan: RunPlan) -> None:
        self.child = child
        self.plan = plan
        self.ended: Ended | None = None
        self.failure: InnError | None = None
        self.detached = False
        self._sock = sock
        self._buffer = bytearray()

    @property
    def vsock_path(self) -> Path:
        """The socket for `CONNECT <port>`."""
        return Path(self.plan.sockets["vsock"])

    def fileno(self) -> int:
        """Readable when the keeper has something to say."""
        return self._sock.fileno()

    def next_event(self, deadline: float | None = None) -> Event | None:
        """The next message, remembered where it is a failure or the end.

        :param deadline: on the monotonic clock; None waits for ever.
        :return: None when the keeper is gone without another word.
        :raise TimedOut: the deadline passed.
        """
        while b"\n" not in self._buffer:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not wait_readable(self._sock, left_s):
                raise TimedOut("the keeper said nothing in time", stage="keeper")
            data = self._receive()
            if not data:
                return None
            self._buffer += data
            if len(self._buffer) > LINE_LIMIT_BYTES:
                raise ProtocolError("the keeper sent too long a line", stage="keeper")
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        event: Event = msgspec.json.decode(line, type=Event)
        if isinstance(event, Failed):
            self.failure = error_from_dict(event.error)
        if isinstance(event, Ended):
            self.ended = event
        return event

    def wait_end(self, timeout_s: float) -> bool:
        """Read on until the last message or the keeper's death; False when time is over."""
        deadline = time.monotonic() + timeout_s
        try:
            while self.ended is None and self.next_event(deadline) is not None:
                pass
        except TimedOut:
            return False
        return True

    def lost(self) -> InnError:
        """The error for a keeper that is gone: what it reported, or that it died."""
        if self.failure is not None:
            return self.failure
        name = self.plan.machine.name
        if self.ended is not None and self.ended.reason == "stopped":
            return GuestError(f"{name!r} was stopped while it started", stage="keeper")
        code = self.child.wait(1.0)
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        return KeeperLost(
            f"the keeper of {name!r} ended {how}",
            stage="keeper",
            fix="the guest ended with it and nothing is left of both; start it again",
        )

    def explain(self) -> InnError | None:
        """The error in what the keeper says while a command runs, or None to go on.

        Takes all that the keeper has said: what is buffered here does not make
        the descriptor readable again.
        """
        while True:
            try:
                event = self.next_event(time.monotonic())
            except TimedOut:
                return None
            if event is None or self.failure is not None:
                return self.lost()
            if isinstance(event, Ended):
                return GuestLost(
                    f"the guest ended while the command ran ({event.reason})", stage="run"
                )

    def detach(self) -> None:
        """Leave the guest to its keeper; this handle is of no more use."""
        with contextlib.suppress(OSError):
            self._sock.sendall(msgspec.json.encode(Detach()) + b"\n")
        self._sock.close()
        self.child.leave()
        self.detached = True

    def forget(self) -> None:
        """Close our end without a word: in a forked child, whose parent has the guest."""
        self._sock.close()
        self.child.leave()
        self.detached = True

    def end(self) -> None:
        """Have the guest torn down, and clean up where the keeper cannot. Idempotent."""
        with contextlib.suppress(OSError):
            self._sock.sendall(msgspec.json.encode(Stop()) + b"\n")
        with contextlib.suppress(ProtocolError, msgspec.MsgspecError):
            # The later rungs of the ladder have a tenth of the first one's time each.
            self.wait_end(_TEARDOWN_LIMIT_S + 1.3 * self.plan.end_limit_s)
        self._sock.close()
        if self.child.pidfd >= 0:
            wait_for_exit(self.child.pidfd, _TEARDOWN_LIMIT_S if self.ended else 0.0)
        # SIGKILL where it still runs; QEMU goes with it (PDEATHSIG).
        self.child.end()
        remove_remains(self.plan.layout, self.plan.machine.name)

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(65536)
        except ConnectionError:
            return b""


@contextlib.contextmanager
def started(plan: RunPlan) -> Iterator[KeeperHandle]:
    """A keeper that works on `plan`; at the end the guest is torn down and nothing is left.

    A guest that was left to its keeper (:meth:`KeeperHandle.detach`) stays.
    """
    with held_back():
        handle = _start(plan)
    try:
        yield handle
    finally:
        with held_back():
            if not handle.detached:
                handle.end()


def _start(plan: RunPlan) -> KeeperHandle:
    launched = take_early() if plan.attached and plan.console_file != "-" else None
    if launched is None:
        launched = _launch(plan)
    handle = KeeperHandle(launched.child, launched.sock, plan)
    # A keeper that is gone already is found out when its first event is read.
    with contextlib.suppress(OSError):
        launched.sock.sendall(msgspec.json.encode(plan) + b"\n")
    return handle


def _launch(plan: RunPlan) -> Launched:
    if plan.attached:
        return launch_keeper(stdout=1 if plan.console_file == "-" else None)
    # Not our stderr for a keeper that stays: whoever reads that waits for its end.
    assert plan.logs is not None
    log_fd = open_append(plan.logs.keeper_log)
    try:
        return launch_keeper(stderr=log_fd)
    finally:
        close_descriptor(log_fd)


def wait_ready(keeper: KeeperHandle) -> Iterator[Event]:
    """The messages of the start, the last of them `Ready`.

    The keeper watches the time limits, since it has the evidence.

    :raise InnError: the start failed, with the keeper's reason.
    """
    while True:
        event = keeper.next_event()
        if event is None or keeper.failure is not None or isinstance(event, Ended):
            raise keeper.lost()
        yield event
        if isinstance(event, Ready):
            return
