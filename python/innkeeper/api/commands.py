# SPDX-License-Identifier: Apache-2.0
"""What reaches into a running guest: commands, connections, forwarded ports."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from innkeeper.agent.attach import KeptSession, list_kept
from innkeeper.agent.connect import connect_port
from innkeeper.agent.session import Kept, Memory
from innkeeper.agent.setup import Keep, attach_request, start_request
from innkeeper.agent.surroundings import TimeLimit
from innkeeper.api.attached import Attached
from innkeeper.api.completed import CompletedExec
from innkeeper.api.process import WINDOW, GuestProcess
from innkeeper.api.session import Remote, RemoteSession
from innkeeper.api.settings import CommandOptions, ExecOptions, PopenOptions
from innkeeper.errors import GuestError, GuestLost, InnError, UsageError, error_from_dict
from innkeeper.keeper.machines import require_running, wait_for_state
from innkeeper.model.machine import Command
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import read_record
from innkeeper.switchboard.ports import SHELL_PORT
from innkeeper.system.sockets import StreamSocket

if TYPE_CHECKING:
    from innkeeper.api.forward import Forward
    from innkeeper.api.listen import GuestListener
    from innkeeper.rings import Rings

# Of each stream, so much is kept in memory.
OUTPUT_LIMIT_BYTES = 64 << 20
CONNECT_LIMIT_S = 10.0
# A lost guest's keeper finds out why within this time.
_EXPLAIN_S = 3.0
_KILL_LIMIT_S = 10.0


class Commands:
    """The part of a machine that reaches into its guest."""

    name: str
    _layout: Layout
    _attached: Attached | None
    # Those that are open end with the machine's object.
    _forwards: weakref.WeakSet[Forward | GuestListener]

    @overload
    def exec(
        self, argv: Sequence[str], *, text: Literal[False] = ..., **options: Unpack[ExecOptions]
    ) -> CompletedExec[bytes]: ...

    @overload
    def exec(
        self, argv: Sequence[str], *, text: Literal[True], **options: Unpack[ExecOptions]
    ) -> CompletedExec[str]: ...

    def exec(
        self, argv: Sequence[str], *, text: bool = False, **options: Unpack[ExecOptions]
    ) -> CompletedExec[Any]:
        """Run a command in the guest to its end, as :func:`subprocess.run`.

        Any thread may call it, several at a time.

        :param argv: the program and its arguments; no shell reads them.
        :param text: decode the outputs as UTF-8; what is none becomes U+FFFD.
        :param options: see :class:`innkeeper.api.settings.ExecOptions`.
        :raise ExecError: with `check`, its exit code is not 0.
        :raise CommandNotFound: the guest has no such command.
        :raise CommandNotExecutable: it cannot be executed.
        :raise TimedOut: it did not end in time.
        :raise GuestLost: the guest ended meanwhile; says why.
        :raise GuestError: the machine does not run.
        """
        return self._exec(argv, text=text, **options)

    def popen(self, argv: Sequence[str], **options: Unpack[PopenOptions]) -> GuestProcess:
        """Start a command in the guest and go on, as :class:`subprocess.Popen`.

        :param options: see :class:`innkeeper.api.settings.PopenOptions`.
        :raise CommandNotFound: the guest has no such command.
        :raise CommandNotExecutable: it cannot be executed.
        :raise GuestError: the machine does not run.
        """
        return self._popen(argv, **options)

    def sessions(self) -> tuple[KeptSession, ...]:
        """The sessions that outlive their connections, oldest first.

        :raise GuestError: the machine does not run.
        """
        with self.connect(SHELL_PORT) as sock:
            return list_kept(sock)

    def attach(self, session_id: str) -> GuestProcess:
        """Go on with a kept session: the end of its output comes first, at most 256 KiB.

        Whoever was attached before is detached.

        :raise GuestError: there is no such session, or the machine does not run.
        """
        return GuestProcess(
            self.connect(SHELL_PORT),
            Command(),
            tty=False,
            explain=self._explain,
            kill=self._kill,
            setup=attach_request(session_id, None),
        )

    def connect(self, port: int, *, timeout_s: float = CONNECT_LIMIT_S) -> StreamSocket:
        """A stream socket to a vsock port of the guest; the caller closes it.

        :raise GuestError: the machine does not run, or nobody listens there.
        """
        try:
            return connect_port(self._layout.guest(self.name).vsock, port, timeout_s=timeout_s)
        except GuestError:
            self._require_running()
            raise

    def rings(self) -> Rings:
        """A connection of this program, domain 0, to the rings of the guest.

        The guest's domain is its CID, `record.guest_cid`.

        :raise GuestError: it does not run, or has no rings.
        """
        from innkeeper.api.rings import open_rings

        return open_rings(self._layout, self.name)

    def listen(self, port: int) -> GuestListener:
        """Wait for connections of the guest to a vsock port of the host, CID 2.

        ::

            with vm.listen(5000) as door:
                with door.accept(timeout_s=30) as sock:
                    ...

        Close the result, or use it as a context manager.

        :raise GuestError: the machine does not run.
        :raise UsageError: the port is innkeeper's own, or a service of the topology.
        :raise HostError: another program listens there.
        """
        from innkeeper.api.listen import GuestListener

        self._require_running()
        made = GuestListener(self._layout, self.name, port)
        self._forwards.add(made)
        return made

    def forward(
        self,
        guest_port: int,
        host_port: int = 0,
        address: str = "127.0.0.1",
        *,
        guest_address: str = "",
    ) -> Forward:
        """Lead a TCP port of the host to one of the guest, which needs no network for it.

        ::

            with vm.forward(8080) as web:
                urllib.request.urlopen(f"http://127.0.0.1:{web.port}/")

        Close the result, or use it as a context manager. Every user of the host
        can connect to a port of its loopback.

        :param host_port: 0 takes a free one; the result's `port` says which.
        :param address: the host's address to listen on.
        :param guest_address: the guest's own address that its program listens
            on; its IPv4 loopback by default.
        :raise GuestError: the machine does not run.
        :raise HostError: the host's port is taken, or not for this user.
        """
        # asyncio takes 40 ms to load, which a program may never need.
        from innkeeper.api.forward import Forward

        self._require_running()
        made = Forward(
            self._layout.guest(self.name).vsock,
            guest_port,
            guest_address=guest_address,
            address=address,
            port=host_port,
        )
        self._forwards.add(made)
        return made

    def _close_forwards(self) -> None:
        for made in list(self._forwards):
            made.close()

    def _popen(
        self,
        argv: Sequence[str],
        *,
        tty: bool = False,
        detach: bool = False,
        keep_stderr_bytes: int | None = None,
        **options: Unpack[CommandOptions],
    ) -> GuestProcess:
        command = make_command(argv, **options)
        return GuestProcess(
            self.connect(SHELL_PORT),
            command,
            tty=tty,
            explain=self._explain,
            kill=self._kill,
            keep_stderr_bytes=keep_stderr_bytes,
            setup=start_request(command, WINDOW if tty else None, Keep()) if detach else None,
        )

    def _exec(
        self,
        argv: Sequence[str],
        *,
        input: bytes | str = b"",  # noqa: A002 - subprocess.run calls it so
        check: bool = False,
        timeout_s: float | None = None,
        text: bool = False,
        max_output_bytes: int = OUTPUT_LIMIT_BYTES,
        remote: Remote | None = None,
        **options: Unpack[CommandOptions],
    ) -> CompletedExec[Any]:
        """:meth:`exec`; another thread may end it by `remote`."""
        command = make_command(argv, **options)
        out, err = Kept(max_output_bytes), Kept(max_output_bytes)
        limit = None
        if timeout_s is not None:
            limit = TimeLimit(time.monotonic() + timeout_s, timeout_s)
        with self.connect(SHELL_PORT) as sock:
            session = RemoteSession(
                sock,
                command,
                stdin=Memory(input.encode() if isinstance(input, str) else input),
                stdout=out,
                stderr=err,
                remote=remote,
                limit=limit,
            )
            try:
                code = session.run()
            except GuestLost as lost:
                raise self._explain(lost) from lost
        truncated = out.truncated or err.truncated
        done: CompletedExec[Any] = CompletedExec(
            command.argv, code, bytes(out.data), bytes(err.data), truncated
        )
        if text:
            done = done.as_text()
        if check:
            done.check_returncode()
        return done

    def _kill(self, pid: int, number: int) -> None:
        """Signal a process group of the guest with any signal."""
        self._exec(["kill", f"-{number}", "--", f"-{pid}"], timeout_s=_KILL_LIMIT_S, check=True)

    def _explain(self, lost: GuestLost) -> InnError:
        """Why a connection to the guest was lost, as its keeper tells or recorded."""
        if self._attached is not None:
            return self._attached.explain(lost, _EXPLAIN_S)
        try:
            wait_for_state(
                self._layout, self.name, ("stopped", "failed", "created"), timeout_s=_EXPLAIN_S
            )
            error = read_record(self._layout, self.name).error
        except InnError:
            return lost
        return error_from_dict(error) if error else lost

    def _require_running(self) -> None:
        if self._attached is None:
            require_running(self._layout, self.name)
        elif self._attached.state != "running":
            told = f": {self._attached.reason}" * bool(self._attached.reason)
            raise GuestError(f"the guest {self.name!r} has ended{told}", stage="connect")


def make_command(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    user: str | None = None,
) -> Command:
    """The command of these arguments.

    :raise UsageError: `argv` is a text, or empty.
    """
    if isinstance(argv, str | bytes) or not argv:
        raise UsageError(
            f"{argv!r} is no command", stage="exec", fix='give a list, as ["uname", "-r"]'
        )
    return Command(
        argv=tuple(os.fspath(word) for word in argv), env=dict(env or {}), workdir=cwd, user=user
    )
