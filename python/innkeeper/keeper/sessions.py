# SPDX-License-Identifier: Apache-2.0
"""Kept sessions of a running guest: the sessions' client and the keeper's word, brought together."""

from __future__ import annotations

from collections.abc import Callable

from innkeeper.agent.attach import (
    KeptSession,
    Outcome,
    attach_kept,
    list_kept,
    run_kept,
    start_detached,
)
from innkeeper.agent.connect import connect_port
from innkeeper.agent.session import Stdio
from innkeeper.agent.vsh import Started
from innkeeper.errors import UsageError
from innkeeper.keeper.command import Witness
from innkeeper.model.machine import Command
from innkeeper.registry.layout import Layout
from innkeeper.switchboard.ports import SHELL_PORT

_CONNECT_LIMIT_S = 10.0


def list_sessions(layout: Layout, name: str) -> tuple[KeptSession, ...]:
    """The kept sessions of a running guest, oldest first.

    :raise GuestError: it does not run, or its agent keeps none.
    """
    path = layout.guest(name).vsock
    with connect_port(path, SHELL_PORT, timeout_s=_CONNECT_LIMIT_S) as sock:
        return list_kept(sock)


def start_session(layout: Layout, name: str, command: Command, *, tty: bool, stdin: bool) -> str:
    """Start a command that nobody is attached to; its session's id.

    :param stdin: it may be written to later.
    :raise InnError: the guest cannot run it.
    """
    path = layout.guest(name).vsock
    with connect_port(path, SHELL_PORT, timeout_s=_CONNECT_LIMIT_S) as sock:
        return start_detached(sock, command, tty=tty, stdin=stdin).session_id


def open_session(guest: Witness, command: Command, *, keys: bytes) -> Outcome:
    """Run a command on our terminal that outlives us.

    :param keys: typed, they leave it.
    :raise InnError: as `run_command`.
    """
    with connect_port(guest.vsock_path, SHELL_PORT, timeout_s=_CONNECT_LIMIT_S) as sock:
        return run_kept(
            sock,
            command,
            Stdio(),
            keys=keys,
            watch_fd=guest.fileno(),
            on_watch=guest.explain,
        )


def attach_session(
    guest: Witness,
    session_id: str,
    *,
    keys: bytes,
    reads_stdin: bool,
    on_started: Callable[[Started], None],
) -> Outcome:
    """Attach our stdin, stdout and stderr to a kept session.

    :raise GuestError: there is none of that id, or the guest is lost.
    """
    with connect_port(guest.vsock_path, SHELL_PORT, timeout_s=_CONNECT_LIMIT_S) as sock:
        return attach_kept(
            sock,
            session_id,
            Stdio(),
            keys=keys,
            reads_stdin=reads_stdin,
            watch_fd=guest.fileno(),
            on_watch=guest.explain,
            on_started=on_started,
        )


def choose_session(sessions: tuple[KeptSession, ...], name: str) -> str:
    """The id that is meant where none was given: of the only one, or the only one that runs.

    :raise UsageError: nothing says which.
    """
    running = [session for session in sessions if session.exit_code is None]
    for candidates in (sessions, running):
        if len(candidates) == 1:
            return candidates[0].id
    if not sessions:
        raise UsageError(f"no session of {name!r} waits", fix="`inn shell` begins one")
    ids = ", ".join(session.id for session in sessions)
    raise UsageError(f"{name!r} has several sessions: {ids}", fix="say which")
