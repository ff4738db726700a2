# SPDX-License-Identifier: Apache-2.0
"""`inn sessions` and `inn attach`: sessions that outlive their connections."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from typing import TYPE_CHECKING

import click

from innkeeper.cli.options import DETACH_KEYS
from innkeeper.cli.output import FORMAT, ago, columns, print_json
from innkeeper.keeper.client import witness
from innkeeper.keeper.machines import require_running
from innkeeper.registry.layout import host_layout
from innkeeper.system.interrupt import interruptible

if TYPE_CHECKING:
    from innkeeper.agent.attach import KeptSession, Outcome
    from innkeeper.agent.vsh import Started


@click.command()
@FORMAT
@click.argument("name")
def sessions(name: str, output_format: str) -> None:
    """List the kept sessions of the running guest NAME.

    Those are shells on terminals and what `inn exec --detach` began. One that
    has ended is listed with its exit code until `inn attach` collects it, at
    most an hour. A guest keeps 64 of them.
    """
    from innkeeper.keeper.sessions import list_sessions

    layout = host_layout()
    with interruptible():
        require_running(layout, name)
        found = list_sessions(layout, name)
    if output_format == "json":
        now = time.time()
        print_json({"sessions": [_row(session, now) for session in found]})
    else:
        click.echo(_table(found, time.time()))


def _row(session: KeptSession, now: float) -> dict[str, object]:
    return {
        "id": session.id,
        "pid": session.pid,
        "user": session.user,
        "argv": session.argv,
        "tty": session.tty,
        "attached": session.attached,
        "since": now - session.age_s,
        "exit_code": session.exit_code,
    }


def _table(found: tuple[KeptSession, ...], now: float) -> str:
    lines = [("SESSION", "PID", "USER", "STATE", "SINCE", "COMMAND")]
    for session in found:
        state = "attached" if session.attached else "detached"
        if session.exit_code is not None:
            state = f"exited {session.exit_code}"
        command = shlex.join(session.argv) if session.argv else "(login shell)"
        since = ago(now - session.age_s, now)
        lines.append((session.id, str(session.pid), session.user, state, since, command))
    return "\n".join(columns(lines))


@click.command()
@DETACH_KEYS
@click.option("--no-stdin", is_flag=True, help="Only see the output; stdin stays as it is.")
@click.argument("name")
@click.argument("session", required=False)
def attach(name: str, session: str | None, detach_keys: str, no_stdin: bool) -> int:
    """Go on with SESSION of the running guest NAME.

    SESSION is an id that `inn exec --detach` printed and `inn sessions` lists,
    or its first characters; it may be left out where only one is there. First
    comes the end of its output so far, at most 256 KiB, seen before or not,
    then what it writes. Its exit code is that of inn; an ended session is
    forgotten then. Whoever was attached before is detached.

    Ctrl-] and then d leaves a session with a terminal. One without gets the
    SIGINT, SIGTERM, SIGHUP and SIGQUIT that inn gets, and runs on without inn
    after the second SIGINT or SIGTERM.
    """
    from innkeeper.agent.keys import parse_keys
    from innkeeper.keeper.sessions import attach_session, choose_session, list_sessions

    layout = host_layout()
    keys = parse_keys(detach_keys)
    with interruptible():
        require_running(layout, name)
        wanted = session or choose_session(list_sessions(layout, name), name)
        with witness(layout, name) as guest:
            outcome = attach_session(
                guest, wanted, keys=keys, reads_stdin=not no_stdin, on_started=_say_dropped
            )
    return say_left(name, outcome)


def _say_dropped(started: Started) -> None:
    if started.dropped_bytes:
        lost = started.dropped_bytes
        click.echo(f"inn: {lost} bytes of output came before this and are not kept", err=True)


def say_left(name: str, outcome: Outcome) -> int:
    """Tell of a session that runs on; the exit code."""
    if outcome.runs_on:
        # Its terminal may be what went away.
        with contextlib.suppress(OSError):
            # Wherever the session left the cursor.
            newline = "\n" if sys.stderr.isatty() else ""
            click.echo(
                f"{newline}inn: left session {outcome.session_id}; "
                f"`inn attach {name} {outcome.session_id}` goes on with it",
                err=True,
            )
    return outcome.code
