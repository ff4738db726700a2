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
from innkeeper.system.process import Child, spawn
from innkeeper.system.sockets import StreamSocket, connect_unix, listen_unix

# A server says little; a guest cannot make it say more than this in memory.
_STDERR_LIMIT = 16 * 1024
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
        self._connection = connection
        self._path = path
        self._stderr = bytearray()
        self._exited: asyncio.Future[int] | None = None

    def watch(self) -> asyncio.Future[int]:
        """A future with the return code, set when the server ends."""
        if self._exited is None:
            loop = asyncio.get_running_loop()
            self._exited = loop.create_future()
            loop.add_reader(self.child.pidfd, self._on_exit)
            loop.add_reader(self.child.stderr_fd, self._on_stderr)
        return self._exited

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
        self._on_stderr()
        return tuple(self._stderr.decode("utf-8", "replace").strip().splitlines())

    def end(self) -> None:
        """Kill the server if it runs, reap it and close everything. Idempotent."""
        if self._exited is not None:
            loop = asyncio.get_running_loop()
            for fd in (self.child.pidfd, self.child.stderr_fd):
                if fd >= 0:
                    loop.remove_reader(fd)
        code = self.child.end()
        if self._exited is not None and not self._exited.done():
            self._exited.set_result(code)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self.child.pidfd)
        code = self.child.wait(1.0)
        if self._exited is not None and not self._exited.done():
            self._exited.set_result(-1 if code is None else code)

    def _on_stderr(self) -> None:
        chunk = self.child.read_stderr()
        while chunk:
            self._stderr += chunk[: _STDERR_LIMIT - len(self._stderr)]
            chunk = self.child.read_stderr()
        if chunk == b"" and self.child.stderr_fd >= 0 and self._exited is not None:
            # End of file keeps a pipe readable for ever.
            asyncio.get_running_loop().remove_reader(self.child.stderr_fd)


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
