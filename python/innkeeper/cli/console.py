# SPDX-License-Identifier: Apache-2.0
"""`inn console`: sit at a guest's serial console."""

from __future__ import annotations

import click

from innkeeper.errors import InnError
from innkeeper.keeper.attach import attach, key_name, parse_escape
from innkeeper.keeper.machines import require_running
from innkeeper.model.record import LIVE_STATES
from innkeeper.registry.layout import Layout, host_layout
from innkeeper.registry.machines import read_record
from innkeeper.system.process import wait_for_pid
from innkeeper.system.terminal import is_terminal

_END_LIMIT_S = 2.0


@click.command()
@click.option("-r", "--read-only", is_flag=True, help="Watch, and send nothing.")
@click.option(
    "--escape",
    default="^]",
    show_default=True,
    metavar="KEY",
    help="The key that detaches, on a terminal; none: there is no such key.",
)
@click.argument("name")
def console(name: str, read_only: bool, escape: str) -> int:
    """Sit at the serial console (ttyS0) of the running guest NAME.

    Shows the end of what it said so far, then all that it says; what is typed
    goes to the guest, byte by byte. Several may be attached at once: all see
    the same, and all may type. Ctrl-] detaches; the guest goes on.

    Without a terminal, stdin is sent as it is, and its end changes nothing:
    output goes on until the guest has ended. `inn console NAME </dev/null`
    watches. Whoever reads too slowly loses bytes and is told how many.

    \b
    What is on the console is the guest's affair. The tiny image has a shell
    there when it was asked for one:
      inn create --append inn.console=shell box
    The guest's bytes reach the terminal as they are, as on any serial line;
    `inn logs` shows them with control characters made visible.

    Exit code 0 after Ctrl-] and when the guest has ended; 128+N after signal N.
    """
    layout = host_layout()
    key = parse_escape(escape)
    require_running(layout, name)
    on_terminal = is_terminal(0)

    def greet() -> None:
        way_out = f"; {key_name(key)} detaches" if on_terminal and key else ""
        click.echo(f"inn: at the console of {name}{way_out}", err=True)

    end = attach(layout, name, read_only=read_only, escape=key, on_attached=greet)
    # The guest's last line is most often a prompt without an end.
    lead = "\n" if on_terminal else ""
    if end.by == "guest":
        click.echo(f"{lead}inn: {_told_end(layout, name)}", err=True)
    elif end.by == "key":
        click.echo(f"{lead}inn: detached; {name} goes on", err=True)
    return end.code


def _told_end(layout: Layout, name: str) -> str:
    """Why the console ended, from the record, where there is one."""
    # A killed keeper's sockets are closed a moment before its locks are released.
    try:
        record = read_record(layout, name)
        if record.state in LIVE_STATES and record.keeper_pid is not None:
            wait_for_pid(record.keeper_pid, _END_LIMIT_S)
            record = read_record(layout, name)
    except InnError:
        return f"the guest {name} has ended"  # of `inn run`, which leaves no record
    told = f" ({record.reason})" if record.reason else ""
    return f"the guest {name} is {record.state}{told}"
