# SPDX-License-Identifier: Apache-2.0
"""A command in a running guest: the session's client and the keeper's word, brought together."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from innkeeper.agent.connect import connect_port
from innkeeper.agent.session import Captured, Stdio, capture_session, run_session, wants_tty
from innkeeper.errors import InnError, TimedOut
from innkeeper.keeper.messages import Ended
from innkeeper.keeper.starter import KeeperHandle, RunLimit
from innkeeper.model.machine import Command
from innkeeper.switchboard.ports import SHELL_PORT

_CONNECT_LIMIT_S = 10.0


class Witness(Protocol):
    """Who knows how the guest fares while a command runs in it."""

    @property
    def vsock_path(self) -> Path:
        """The guest's socket for `CONNECT <port>`."""

    def fileno(self) -> int:
        """Readable when there is news of the guest."""

    def explain(self) -> InnError | None:
        """Take the news: the error to end the command with, or None to go on."""


def run_command(
    guest: Witness, command: Command, *, tty: bool | None, limit: RunLimit | None
) -> int:
    """Run a command with our own stdin, stdout and stderr; returns its exit code.

    :param tty: a pseudo-terminal for it; None gives one where our stdin and
        stdout are terminals.
    :raise CommandNotFound, CommandNotExecutable: the guest cannot run it.
    :raise TimedOut: the limit passed.
    :raise GuestError: the guest or its keeper is lost.
    """
    with connect_port(guest.vsock_path, SHELL_PORT, timeout_s=_CONNECT_LIMIT_S) as sock:
        return run_session(
            sock,
            command,
            Stdio(),
            tty=wants_tty(Stdio()) if tty is None else tty,
            watch_fd=guest.fileno(),
            on_watch=guest.explain,
            deadline=limit.ends_at if limit else None,
            timeout_s=limit.seconds if limit else None,
        )


def capture_command(guest: Witness, command: Command, *, limit: RunLimit | None) -> Captured:
    """Run a command with our stdin and its output kept in memory; as :func:`run_command`."""
    with connect_port(guest.vsock_path, SHELL_PORT, timeout_s=_CONNECT_LIMIT_S) as sock:
        return capture_session(
            sock,
            command,
            stdin_fd=0,
            watch_fd=guest.fileno(),
            on_watch=guest.explain,
            deadline=limit.ends_at if limit else None,
            timeout_s=limit.seconds if limit else None,
        )


def run_until_power_off(keeper: KeeperHandle, *, limit: RunLimit | None) -> int:
    """Wait for a guest without an agent to end by itself; 0 when it powered off.

    :raise TimedOut: the limit passed.
    :raise GuestError: it ended otherwise.
    """
    try:
        while True:
            event = keeper.next_event(limit.ends_at if limit else None)
            if event is None or keeper.failure is not None:
                raise keeper.lost()
            if isinstance(event, Ended):
                return 0
    except TimedOut as exc:
        raise TimedOut(
            f"the guest did not power off within {limit.seconds if limit else 0:g} s",
            stage="run",
            fix="give more --timeout",
        ) from exc
