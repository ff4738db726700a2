# SPDX-License-Identifier: Apache-2.0
"""A running share server: started in namespaces of its own, connected, ended.

::

    start_server() ──> ShareServer ──take_connection()──> stand-in ... end()──> reaped, all closed
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path

from innkeeper.errors import HostError
from innkeeper.model.share import SharePlan
from innkeeper.shares.plan import sandbox_argv
from innkeeper.system import share_sandbox
from innkeeper.system.child_watch import ChildWatch
from innkeeper.system.process import Child, spawn
from innkeeper.system.sockets import StreamSocket, connect_unix, listen_unix

_CONNECT_LIMIT_S = 5.0


class ShareServer:
    """A server's process and our end of its connection.

    Made by :func:`start_server`.
    """

    def __init__(
        self, child: Child, connection: StreamSocket | None, *, path: Path | None = None
    ) -> None:
        """Take over what was started.

        :param path: of the listening socket, where it is there for the guest.
        """
        self.child = child
        self._watch = ChildWatch(child)
        self._connection = connection
        self._path = path

    def watch(self) -> asyncio.Future[int]:
        """A future with the return code, set when the server ends."""
        return self._watch.exited()

    def take_connection(self) -> StreamSocket:
        """The connection to the server, which is the taker's from then on. To be called once."""
        assert self._connection is not None
        taken, self._connection = self._connection, None
        return taken

    def evidence(self) -> tuple[str, ...]:
        """How it ended, if it did, and what it said last."""
        code = self.child.poll()
        ended = () if code is None else (f"signal {-code}" if code < 0 else f"exit code {code}",)
        # One that was killed has no word of it among its last ones.
        said = () if code is not None and code < 0 else self.stderr_lines()[-4:]
        return (*ended, *said)

    def stderr_lines(self) -> tuple[str, ...]:
        """What the server said on stderr so far (the first 16 KiB), for evidence."""
        return self._watch.stderr_lines()

    def end(self) -> None:
        """Kill the server if it runs, reap it and close everything. Idempotent."""
        self._watch.end()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def start_server(plan: SharePlan, socket_path: Path) -> ShareServer:
    """Start the server of a plan, which inherits the listening socket.

    For virtiofs, QEMU's connection is made here: it is there at once, and served when
    the server is up. For 9P, the guest connects to the socket, by the switchboard.

    :param socket_path: for virtiofs free again when this returns.
    :raise HostError: it cannot be started.
    """
    is_ninep = plan.transport == "9p"
    try:
        Path(plan.root).mkdir(mode=0o700, exist_ok=True)
        listener = listen_unix(socket_path, backlog=8 if is_ninep else 1)
    except OSError as exc:
        raise HostError(f"cannot make {plan.root}: {exc.strerror}", stage="shares") from exc
    with listener, ExitStack() as undo:
        connection = None
        if is_ninep:
            undo.callback(socket_path.unlink, missing_ok=True)
        else:
            connection = undo.enter_context(_connect(socket_path))
        argv = sandbox_argv(
            plan, python=sys.executable, program=share_sandbox.__file__, fd=listener.fileno()
        )
        fds = (listener.fileno(),)
        child = spawn(argv, name="shares", pass_fds=fds, capture_stderr=True)
        undo.pop_all()
    return ShareServer(child, connection, path=socket_path if is_ninep else None)


def _connect(path: Path) -> StreamSocket:
    try:
        return connect_unix(path, timeout_s=_CONNECT_LIMIT_S)
    finally:
        path.unlink(missing_ok=True)
