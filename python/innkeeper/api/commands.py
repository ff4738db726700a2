# SPDX-License-Identifier: Apache-2.0
"""Commands in a running guest: `exec` and `popen`, for whoever knows where the guest is."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Literal, overload

from innkeeper.agent.connect import connect_port
from innkeeper.agent.loop import TimeLimit
from innkeeper.agent.session import Kept, Memory
from innkeeper.api.attached import Attached
from innkeeper.api.completed import CompletedExec
from innkeeper.api.process import GuestProcess
from innkeeper.api.session import Remote, RemoteSession
from innkeeper.errors import GuestError, GuestLost, InnError, UsageError, error_from_dict
from innkeeper.keeper.machines import require_running, wait_for_state
from innkeeper.model.machine import Command
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import read_record
from innkeeper.switchboard.ports import SHELL_PORT
from innkeeper.system.sockets import StreamSocket

# Of each stream, so much is kept in memory.
OUTPUT_LIMIT_BYTES = 64 << 20
CONNECT_LIMIT_S = 10.0
# A lost guest's keeper finds out why within this time.
_EXPLAIN_S = 3.0
_KILL_LIMIT_S = 10.0


class Commands:
    """The part of a machine that runs commands."""

    name: str
    _layout: Layout
    _attached: Attached | None

    @overload
    def exec(
        self,
        argv: Sequence[str],
        *,
        input: bytes | str = ...,
        env: Mapping[str, str] | None = ...,
        cwd: str | None = ...,
        user: str | None = ...,
        check: bool = ...,
        timeout_s: float | None = ...,
        text: Literal[False] = ...,
        max_output_bytes: int = ...,
    ) -> CompletedExec[bytes]: ...

    @overload
    def exec(
        self,
        argv: Sequence[str],
        *,
        input: bytes | str = ...,
        env: Mapping[str, str] | None = ...,
        cwd: str | None = ...,
        user: str | None = ...,
        check: bool = ...,
        timeout_s: float | None = ...,
        text: Literal[True],
        max_output_bytes: int = ...,
    ) -> CompletedExec[str]: ...

    def exec(
        self,
        argv: Sequence[str],
        *,
        input: bytes | str = b"",  # noqa: A002 - subprocess.run calls it so
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        check: bool = False,
        timeout_s: float | None = None,
        text: bool = False,
        max_output_bytes: int = OUTPUT_LIMIT_BYTES,
    ) -> CompletedExec[bytes] | CompletedExec[str]:
        """Run a command in the guest to its end, as :func:`subprocess.run`.

        Any thread may call it, several at a time.

        :param argv: the program and its arguments; no shell reads them.
        :param input: its stdin.
        :param env: variables beside the guest's own.
        :param cwd: folder to start in.
        :param user: name or "uid[:gid]"; root by default.
        :param check: raise where the exit code is not 0.
        :param timeout_s: the command gets SIGTERM then, and a second.
        :param text: decode the outputs as UTF-8; what is none becomes U+FFFD.
        :param max_output_bytes: so much of each output is kept; the result
            says where there was more.
        :raise ExecError: with `check`, its exit code is not 0.
        :raise CommandNotFound: the guest has no such command.
        :raise CommandNotExecutable: it cannot be executed.
        :raise TimedOut: it did not end in time.
        :raise GuestLost: the guest ended meanwhile; says why.
        :raise GuestError: the machine does not run.
        """
        done = self._exec(
            make_command(argv, env=env, cwd=cwd, user=user),
            input.encode() if isinstance(input, str) else input,
            timeout_s=timeout_s,
            max_output_bytes=max_output_bytes,
        )
        result: CompletedExec[bytes] | CompletedExec[str] = done
        if text:
            result = done.as_text()
        if check:
            result.check_returncode()
        return result

    def popen(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        tty: bool = False,
    ) -> GuestProcess:
        """Start a command in the guest and go on, as :class:`subprocess.Popen`.

        :param tty: give it a terminal of 24 lines; stderr then comes with stdout.
        :raise CommandNotFound: the guest has no such command.
        :raise CommandNotExecutable: it cannot be executed.
        :raise GuestError: the machine does not run.
        """
        return self._popen(make_command(argv, env=env, cwd=cwd, user=user), tty=tty)

    def connect(self, port: int, *, timeout_s: float = CONNECT_LIMIT_S) -> StreamSocket:
        """A stream socket to a vsock port of the guest; the caller closes it.

        :raise GuestError: the machine does not run, or nobody listens there.
        """
        try:
            return connect_port(self._layout.guest(self.name).vsock, port, timeout_s=timeout_s)
        except GuestError:
            self._require_running()
            raise

    def _popen(
        self, command: Command, *, tty: bool = False, keep_stderr_bytes: int | None = None
    ) -> GuestProcess:
        return GuestProcess(
            self.connect(SHELL_PORT),
            command,
            tty=tty,
            explain=self._explain,
            kill=self._kill,
            keep_stderr_bytes=keep_stderr_bytes,
        )

    def _exec(
        self,
        command: Command,
        stdin: bytes,
        *,
        timeout_s: float | None = None,
        max_output_bytes: int = OUTPUT_LIMIT_BYTES,
        remote: Remote | None = None,
    ) -> CompletedExec[bytes]:
        out, err = Kept(max_output_bytes), Kept(max_output_bytes)
        limit = None
        if timeout_s is not None:
            limit = TimeLimit(time.monotonic() + timeout_s, timeout_s)
        with self.connect(SHELL_PORT) as sock:
            session = RemoteSession(
                sock,
                command,
                stdin=Memory(stdin),
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
        return CompletedExec(command.argv, code, bytes(out.data), bytes(err.data), truncated)

    def _kill(self, pid: int, number: int) -> None:
        """Signal a process group of the guest with any signal."""
        command = Command(argv=("kill", f"-{number}", "--", f"-{pid}"))
        self._exec(command, b"", timeout_s=_KILL_LIMIT_S).check_returncode()

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
    argv: Sequence[str], *, env: Mapping[str, str] | None, cwd: str | None, user: str | None
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
