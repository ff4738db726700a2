# SPDX-License-Identifier: Apache-2.0
"""`inn set`: other settings for a machine, another size for a guest that runs."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from innkeeper.cli.options import machine_options, machine_table
from innkeeper.errors import UsageError
from innkeeper.keeper.machines import change_machine, set_memory
from innkeeper.model.sizes import format_size, parse_duration, parse_size
from innkeeper.registry.layout import host_layout
from innkeeper.registry.machines import guest_lives, read_record
from innkeeper.system.interrupt import interruptible


@click.command(name="set")
@machine_options
@click.option(
    "-t",
    "--timeout",
    default="30s",
    show_default=True,
    metavar="TIME",
    help="Time for a running guest to reach its new size; exit code 124.",
)
@click.argument("name")
@click.pass_context
def set_verb(ctx: click.Context, /, name: str, timeout: str, **values: Any) -> None:
    """Change settings of the machine NAME; those not given stay as they are.

    Settings are stored and hold from the next start on. An option that can be
    repeated replaces all its values.

    The memory of a guest that runs is different: it changes at once, and until
    the guest ends. SIZE lies between 96M and what it was started with; its
    balloon driver gives the rest back to the host, or takes it again. inn waits
    until it has, and says how far it came where it has not. What is stored
    stays: the next start has the machine's own size. Stop a machine to change that.
    """
    layout = host_layout()
    table = machine_table(
        values, given=lambda key: ctx.get_parameter_source(key) is ParameterSource.COMMANDLINE
    )
    if not table:
        raise UsageError("nothing to set", fix="give an option, such as --memory 256M")
    timeout_s = parse_duration(timeout)
    read_record(layout, name)
    lives = guest_lives(layout, name)
    size = table.pop("memory", None) if lives else None
    if table:
        change_machine(layout, name, table, source="the command line")
        if lives:
            told = ", ".join(key.replace("_", " ") for key in table)
            click.echo(f"inn: {name} runs; from its next start on: {told}", err=True)
    if size is not None:
        with interruptible():
            now_bytes = set_memory(layout, name, parse_size(size), timeout_s=timeout_s)
        click.echo(f"inn: {name} has {format_size(now_bytes)} of memory until it ends", err=True)
    click.echo(name)
