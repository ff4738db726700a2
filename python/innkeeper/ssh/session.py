# SPDX-License-Identifier: Apache-2.0
"""One session channel as one shell session of the guest (`proto/vsh.proto`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import asyncssh

from innkeeper.agent.setup import WindowSize
from innkeeper.agent.vsh import (
    STDERR,
    Event,
    Exited,
    Failed,
    Output,
    SessionProtocol,
    Started,
    failure_to_error,
)
from innkeeper.errors import GuestError, GuestLost, InnError
from innkeeper.keeper.relay import open_port
from innkeeper.model.machine import Command
from innkeeper.ssh.flow import Flow, Inbox
from innkeeper.ssh.mapping import SFTP, SIGNALS, session_command, shell_argv, window_of
from innkeeper.switchboard.ports import SHELL_PORT

_PIECE_BYTES = 64 << 10
_SETUP_LIMIT_S = 30.0
# How long the keeper may take to explain a lost guest.
_EXPLAIN_S = 2.0
_KILLED = 137


class Shell:
    """A shell session over asyncio streams, from its setup to its end."""

    def __init__(self, vsock_path: Path, command: Command, window: WindowSize | None) -> None:
        self.protocol = SessionProtocol(command, window=window)
        self._vsock_path = vsock_path
        self._command = command
        self._writer: asyncio.StreamWriter | None = None

    async def events(self) -> AsyncGenerator[Event, None]:
        """What happens in the guest, up to `Exited`; the connection ends with the iterator.

        :raise InnError: the command was not started, or the guest was lost.
        """
        try:
            async with asyncio.timeout(_SETUP_LIMIT_S) as limit:
                reader, self._writer = await open_port(self._vsock_path, SHELL_PORT)
                self._writer.write(self.protocol.setup())
                while not self.protocol.ended:
                    data = await reader.read(_PIECE_BYTES)
                    if not data:
                        raise GuestLost("the connection to the guest was lost", stage="session")
                    for event in self.protocol.receive(data):
                        if isinstance(event, Failed):
                            raise failure_to_error(
                                event, self._command, started=self.protocol.started
                            )
                        if isinstance(event, Started):
                            limit.reschedule(None)
                        yield event
        except TimeoutError as exc:
            raise GuestError(
                f"the guest's agent did not answer within {_SETUP_LIMIT_S:g} s", stage="session"
            ) from exc
        except (OSError, EOFError) as exc:
            lost = GuestLost if self.protocol.started else GuestError
            raise lost(f"the guest cannot be reached: {exc}", stage="session") from exc
        finally:
            if self._writer is not None:
                self._writer.transport.abort()

    def send(self, frames: bytes) -> None:
        """Frames for the guest; dropped where the session is over."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(frames)

    async def feed(self, inbox: Inbox) -> None:
        """Everything of the inbox to the command's stdin, no faster than it takes it."""
        while self._writer is not None:
            data = await inbox.take()
            if not data:
                break
            self.send(self.protocol.stdin(data))
            with contextlib.suppress(OSError):
                await self._writer.drain()
        self.send(self.protocol.stdin_eof())


def error_text(error: InnError) -> bytes:
    """A failure as the client's user reads it."""
    lines = [f"inn: error: {error.brief}", *(f"  | {line}" for line in error.evidence)]
    if error.fix:
        lines.append(f"  to fix it: {error.fix}")
    return ("\r\n".join(lines) + "\r\n").encode("utf-8", "replace")


class GuestSession(Flow, asyncssh.SSHServerSession[bytes]):
    """A shell, a command or the SFTP server, as a user of the guest."""

    _chan: asyncssh.SSHServerChannel[bytes]

    def __init__(self, vsock_path: Path, user: str) -> None:
        super().__init__()
        self._vsock_path = vsock_path
        self._user = user
        self._argv: tuple[str, ...] = ()
        self._term: str | None = None
        self._window: WindowSize | None = None
        self._shell: Shell | None = None
        self._killed = False

    # What the client asks for before it starts

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """The channel is open."""
        self._chan = chan

    def pty_requested(
        self,
        term_type: str,
        term_size: tuple[int, int, int, int],
        term_modes: object,  # noqa: ARG002 - the guest's own defaults stay
    ) -> bool:
        """A terminal."""
        self._term = term_type
        self._window = window_of(*term_size[:2])
        return True

    def shell_requested(self) -> bool:
        """The login shell."""
        return True

    def exec_requested(self, command: str) -> bool:
        """A command."""
        self._argv = shell_argv(command)
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        """SFTP, and nothing else."""
        self._argv = SFTP
        return subsystem == "sftp"

    def session_started(self) -> None:
        """All is asked for."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    # What the client does while it runs

    def signal_received(self, signal: str) -> None:
        """A signal for the command; those that the agent cannot send are dropped."""
        if signal == "KILL" and self._task is not None:
            # Without its session the command is hung up and then killed.
            self._killed = True
            self._task.cancel()
        elif signal in SIGNALS and self._shell is not None and self._shell.protocol.started:
            self._shell.send(self._shell.protocol.signal(SIGNALS[signal]))

    def terminal_size_changed(
        self,
        width: int,
        height: int,
        pixwidth: int,  # noqa: ARG002
        pixheight: int,  # noqa: ARG002
    ) -> None:
        """Another size of the window."""
        self._window = window_of(width, height)
        self._send_window()

    def _send_window(self) -> None:
        shell, window = self._shell, self._window
        if shell is not None and window is not None and shell.protocol.started:
            shell.send(shell.protocol.resize(window))

    # The guest's side

    async def _run(self) -> None:
        try:
            code = await self._follow()
        except InnError as exc:
            if isinstance(exc, GuestLost):
                # The keeper may know why, and then the whole connection ends.
                await asyncio.sleep(_EXPLAIN_S)
            if not self._chan.is_closing():
                self._chan.write_stderr(error_text(exc))
            code = exc.exit_code
        except asyncio.CancelledError:
            if not self._killed:
                raise
            code = _KILLED
        # The end of file is told with the exit code only: a client that has both
        # ends of file closes the channel, which would take no code any more.
        self._chan.exit(code)

    async def _follow(self) -> int:
        """The command's exit code, after all its output."""
        environment = self._chan.get_environment_bytes()
        command = session_command(self._argv, self._user, environment, self._term)
        window = self._window if self._term is not None else None
        self._shell = Shell(self._vsock_path, command, window)
        feeder: asyncio.Task[None] | None = None
        try:
            async with contextlib.aclosing(self._shell.events()) as events:
                async for event in events:
                    if isinstance(event, Started):
                        if window is not None and self._window != window:
                            # Another size came while the command was being started.
                            self._send_window()
                        feeder = asyncio.create_task(self._shell.feed(self._inbox))
                    elif isinstance(event, Exited):
                        return event.code
                    else:
                        await self._show(event)
        finally:
            if feeder is not None:
                feeder.cancel()
        raise GuestLost("the guest's session ended without an exit code", stage="session")

    async def _show(self, event: Event) -> None:
        if isinstance(event, Output):
            if event.stream == STDERR:
                self._chan.write_stderr(event.data)
            else:
                self._chan.write(event.data)
            await self._gate.passed()
