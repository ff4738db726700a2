# SPDX-License-Identifier: Apache-2.0
"""A session for programs: other threads may signal it or hang it up, and no handler is touched.

The command line's session forwards this process's own signals. A library must
leave those alone: Ctrl-C in a program that uses innkeeper is its KeyboardInterrupt.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Self

from innkeeper.agent.attach import attach_failure
from innkeeper.agent.loop import Session
from innkeeper.agent.setup import WindowSize
from innkeeper.agent.surroundings import Surroundings, TimeLimit
from innkeeper.agent.vsh import Event, Exited, SessionProtocol, Started
from innkeeper.model.machine import Command
from innkeeper.system.pump import Sink, Source
from innkeeper.system.signals import SignalWatch
from innkeeper.system.sockets import StreamSocket, stream_pair, wait_readable

# What the agent's protocol can send: HUP, INT, QUIT, TERM.
DIRECT_SIGNALS = (1, 2, 3, 15)
# The exit code of a session that was hung up: as after SIGKILL.
HUNG_UP = 137


class Remote(SignalWatch):
    """Signals for a guest's command, sent by any thread, read by its session's loop.

    :ivar hung_up: the session was told to end.
    """

    def __init__(self) -> None:
        super().__init__(())
        self._lock = threading.Lock()
        self._ours, self._theirs = stream_pair()
        self._ours.settimeout(0)
        self._theirs.settimeout(0)
        self.hung_up = False
        self.fd = self._theirs.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, number: int) -> None:
        """Have a signal sent to the command; one that has ended is fine."""
        with self._lock, contextlib.suppress(OSError):
            self._ours.send(bytes([number]))

    def hang_up(self) -> None:
        """Have the session end at once; the agent ends the command then. Idempotent."""
        with self._lock:
            self.hung_up = True
            self._ours.close()

    def take(self) -> list[int]:
        """The signals that came since the last call; 0 stands for the hang-up."""
        try:
            return list(self._theirs.recv(512)) or [0]
        except BlockingIOError:
            return []
        except OSError:
            return [0]

    def wait(self, timeout_s: float | None) -> bool:
        """True when it was hung up, or signalled, within the time."""
        return wait_readable(self._theirs, timeout_s)

    def close(self) -> None:
        """Release the descriptors. Idempotent."""
        with self._lock:
            self._ours.close()
        self._theirs.close()


class RemoteSession(Session):
    """A session whose signals come from a :class:`Remote`.

    :ivar pid: the command's process id in the guest, once it runs.
    :ivar session_id: of a kept session, once it runs.
    :ivar running: set once the command runs.
    :ivar exited: set, after `code`, once the command has ended.
    """

    def __init__(
        self,
        sock: StreamSocket,
        command: Command,
        *,
        stdin: Source,
        stdout: Sink,
        stderr: Sink,
        remote: Remote | None = None,
        limit: TimeLimit | None = None,
        window: WindowSize | None = None,
        setup: bytes | None = None,
    ) -> None:
        around = Surroundings(limit=limit)
        if setup is not None and not command.argv:
            around.failure = attach_failure
        if remote is not None:
            around.signals = remote
        super().__init__(
            sock,
            SessionProtocol(command, window=window, setup=setup),
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            around=around,
        )
        self.pid = 0
        self.session_id = ""
        self.code: int | None = None
        self.running = threading.Event()
        self.exited = threading.Event()

    def _take_signals(self) -> int | None:
        for number in self._around.signals.take():
            if number == 0:
                return HUNG_UP
            if self._code is None and self._connected:
                self._channel.queue(self._protocol.signal(number), urgent=True)
        return None

    def _handle(self, event: Event) -> None:
        super()._handle(event)
        if isinstance(event, Started):
            self.pid, self.session_id = event.pid, event.session_id
            self.running.set()
        elif isinstance(event, Exited):
            self.code = event.code
            self.exited.set()
