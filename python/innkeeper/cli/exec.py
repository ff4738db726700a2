# SPDX-License-Identifier: Apache-2.0
"""`inn exec` and `inn shell`: commands in a guest that runs."""

from __future__ import annotations

from typing import Any

import click

from innkeeper.cli.options import TTY, build_command, command_options
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
@TTY
@click.argument("name")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
def exec_verb(name: str, tty: bool | None, timeout: str | None, **values: Any) -> int:
    """Run COMMAND in the running guest NAME.

    The command's stdin, stdout, stderr and exit code are those of inn, as with
    `inn run`.
    """
    return _run(name, build_command(values), tty=tty, timeout=timeout)


@click.command(context_settings={"allow_interspersed_args": False})
@command_options
@TTY
@click.argument("name")
def shell(name: str, tty: bool | None, timeout: str | None, **values: Any) -> int:
    """Open the login shell of a user of the running guest NAME."""
    return _run(name, build_command({**values, "command": ()}), tty=tty, timeout=timeout)


def _run(name: str, command: Command, *, tty: bool | None, timeout: str | None) -> int:
    layout = host_layout()
    limit = RunLimit.of(parse_duration(timeout)) if timeout is not None else None
    with interruptible():
        require_running(layout, name)
        with witness(layout, name) as guest:
            return run_command(guest, command, tty=tty, limit=limit)
