# SPDX-License-Identifier: Apache-2.0
"""`inn exec` and `inn shell`: commands in a guest that runs."""

from __future__ import annotations

from typing import Any

import click

from innkeeper.agent.session import Stdio, wants_tty
from innkeeper.cli.options import DETACH_KEYS, TTY, WORKDIR_OF, build_command, command_options
from innkeeper.cli.sessions import say_left
from innkeeper.errors import UsageError
from innkeeper.keeper.client import witness
from innkeeper.keeper.command import run_command
from innkeeper.keeper.machines import require_running
from innkeeper.keeper.starter import RunLimit
from innkeeper.model.machine import Command
from innkeeper.model.sizes import parse_duration
from innkeeper.registry.layout import host_layout
from innkeeper.system.interrupt import interruptible


@click.command(name="exec", context_settings={"allow_interspersed_args": False})
@command_options
@WORKDIR_OF
@TTY
@click.option(
    "-d",
    "--detach",
    is_flag=True,
    help="Print the id of a kept session and return; `inn attach` goes on with it.",
)
@click.option(
    "-i",
    "--interactive",
    is_flag=True,
    help="With --detach: leave stdin open for `inn attach`. A terminal is open anyway.",
)
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
def exec_verb(
    name: str,
    tty: bool | None,
    timeout: str | None,
    detach: bool,
    interactive: bool,
    **values: Any,
) -> int:
    """Run COMMAND in the running guest NAME.

    The command's stdin, stdout, stderr and exit code are those of inn, as with
    `inn run`. SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 to inn
    reach the command; the second SIGINT or SIGTERM ends inn too. On a terminal
    keys travel as bytes, window sizes are passed on, and those signals end inn. When inn ends, however it does, the
    command gets SIGHUP, and SIGKILL after 2 s.

    With --detach none of this holds: the command runs on in a kept session,
    whose last 256 KiB of output and exit code wait for `inn attach`, the latter
    for an hour.
    """
    command = build_command(values)
    if not detach:
        if interactive:
            raise UsageError("--interactive needs --detach", fix="leave it out: stdin is inn's")
        return _run(name, command, tty=tty, timeout=timeout)
    if timeout is not None:
        raise UsageError("--timeout is for commands that inn waits for", fix="leave out --detach")
    from innkeeper.keeper.sessions import start_session

    layout = host_layout()
    with interruptible():
        require_running(layout, name)
        click.echo(start_session(layout, name, command, tty=bool(tty), stdin=interactive))
    return 0


@click.command(context_settings={"allow_interspersed_args": False})
@command_options
@WORKDIR_OF
@TTY
@DETACH_KEYS
@click.argument("name")
def shell(name: str, tty: bool | None, timeout: str | None, detach_keys: str, **values: Any) -> int:
    """Open the login shell of a user of the running guest NAME.

    On a terminal the shell is a kept session: Ctrl-] and then d leaves it
    running, and so does the end of inn or of its terminal, even by SIGKILL.
    `inn sessions NAME` lists what runs, `inn attach NAME` goes on with it.
    With --timeout, --no-tty or --detach-keys "" it ends with inn.
    """
    from innkeeper.agent.keys import parse_keys

    command = build_command({**values, "command": ()})
    keys = parse_keys(detach_keys)
    wants = wants_tty(Stdio()) if tty is None else tty
    if not (wants and keys) or timeout is not None:
        return _run(name, command, tty=tty, timeout=timeout)
    from innkeeper.keeper.sessions import open_session

    layout = host_layout()
    with interruptible():
        require_running(layout, name)
        with witness(layout, name) as guest:
            outcome = open_session(guest, command, keys=keys)
    return say_left(name, outcome)


def _run(name: str, command: Command, *, tty: bool | None, timeout: str | None) -> int:
    layout = host_layout()
    limit = RunLimit.of(parse_duration(timeout)) if timeout is not None else None
    with interruptible():
        require_running(layout, name)
        with witness(layout, name) as guest:
            return run_command(guest, command, tty=tty, limit=limit)
