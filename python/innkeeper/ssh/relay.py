# SPDX-License-Identifier: Apache-2.0
"""Forwarded connections: `direct-tcpip` and `direct-streamlocal` channels into the guest.

A TCP connection goes through the agent's port for them; a Unix socket is opened
by a small program in a session, so that the rights are those of the user.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Protocol

import asyncssh

from innkeeper.agent.text import clean_text
from innkeeper.agent.vsh import STDERR, STDOUT, Eof, Event, Exited, Output, Started
from innkeeper.errors import GuestError, InnError
from innkeeper.keeper.relay import dial
from innkeeper.model.machine import Command
from innkeeper.ssh.flow import Flow, Inbox
from innkeeper.ssh.mapping import forward_addresses, unix_argv
from innkeeper.ssh.session import Shell

_PIECE_BYTES = 64 << 10
_DIAL_LIMIT_S = 20.0
_CONNECTED = b"connected\n"
_COMPLAINT_LIMIT_BYTES = 1024


class Far(Protocol):
    """The guest's end of a connection."""

    def received(self) -> AsyncIterator[bytes]:
        """What comes from there, up to its end of file."""

    async def feed(self, inbox: Inbox) -> None:
        """Everything of the inbox, then the end of file."""

    async def close(self) -> None:
        """Give it up. Idempotent."""


class TcpFar:
    """A TCP port of the guest."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def received(self) -> AsyncIterator[bytes]:
        """As :class:`Far`."""
        while data := await self._reader.read(_PIECE_BYTES):
            yield data

    async def feed(self, inbox: Inbox) -> None:
        """As :class:`Far`."""
        while data := await inbox.take():
            self._writer.write(data)
            await self._writer.drain()
        self._writer.write_eof()

    async def close(self) -> None:
        """As :class:`Far`."""
        self._writer.transport.abort()


class UnixFar:
    """A Unix socket of the guest."""

    def __init__(self, shell: Shell, events: AsyncGenerator[Event, None]) -> None:
        self._shell = shell
        self._events = events

    async def received(self) -> AsyncIterator[bytes]:
        """As :class:`Far`."""
        async for event in self._events:
            if isinstance(event, Output) and event.stream == STDOUT:
                yield event.data
            elif isinstance(event, Exited) or event == Eof(STDOUT):
                return

    async def feed(self, inbox: Inbox) -> None:
        """As :class:`Far`."""
        await self._shell.feed(inbox)

    async def close(self) -> None:
        """As :class:`Far`."""
        await _close(self._events)


async def _close(events: AsyncGenerator[Event, None]) -> None:
    with contextlib.suppress(InnError, RuntimeError):
        await events.aclose()


async def connect_tcp(vsock_path: Path, name: str, host: str, port: int) -> Relay:
    """A channel's session that leads to a TCP port of the guest.

    :raise asyncssh.ChannelOpenError: it cannot be reached; the client is told why.
    """
    problem = ""
    try:
        for address in forward_addresses(host, name):
            try:
                async with asyncio.timeout(_DIAL_LIMIT_S):
                    return Relay(TcpFar(*await dial(vsock_path, port, address)))
            except GuestError as exc:
                problem = problem or exc.brief
    except InnError as exc:
        raise _refusal(exc.brief) from exc
    except (OSError, EOFError, TimeoutError) as exc:
        raise _refusal(f"the guest cannot be reached: {exc}") from exc
    raise _refusal(problem)


async def connect_unix(vsock_path: Path, user: str, path: str) -> Relay:
    """A channel's session that leads to a Unix socket of the guest, as this user.

    :raise asyncssh.ChannelOpenError: it cannot be reached; the client is told why.
    """
    shell = Shell(vsock_path, Command(argv=unix_argv(path), user=user), None)
    events = shell.events()
    said = b""
    try:
        async with asyncio.timeout(_DIAL_LIMIT_S):
            async for event in events:
                if isinstance(event, Output) and event.stream == STDERR:
                    said += event.data
                if said.startswith(_CONNECTED):
                    return Relay(UnixFar(shell, events))
                if isinstance(event, Exited) or len(said) > _COMPLAINT_LIMIT_BYTES:
                    break
                if not isinstance(event, Started | Output | Eof):
                    break
        await _close(events)
    except InnError as exc:
        raise _refusal(exc.brief) from exc
    except TimeoutError as exc:
        raise _refusal("the guest did not answer") from exc
    raise _refusal(clean_text(said.decode("utf-8", "replace").strip()) or "no connection")


def _refusal(why: str) -> asyncssh.ChannelOpenError:
    return asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, why)


class Relay(Flow, asyncssh.SSHTCPSession[bytes], asyncssh.SSHUNIXSession[bytes]):
    """Bytes between a forwarded channel and the guest, each direction with its own end."""

    _chan: asyncssh.SSHTCPChannel[bytes] | asyncssh.SSHUNIXChannel[bytes]

    def __init__(self, far: Far) -> None:
        super().__init__()
        self._far = far

    def connection_made(
        self, chan: asyncssh.SSHTCPChannel[bytes] | asyncssh.SSHUNIXChannel[bytes]
    ) -> None:
        """The channel is open."""
        self._chan = chan

    def session_started(self) -> None:
        """Bytes flow."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._far.feed(self._inbox))
                both.create_task(self._bring())
        except* (InnError, OSError):
            pass  # the peer sees the connection end, which is all there is to say
        finally:
            await self._far.close()
            self._chan.close()

    async def _bring(self) -> None:
        async for data in self._far.received():
            self._chan.write(data)
            await self._gate.passed()
        self._chan.write_eof()
