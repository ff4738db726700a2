# SPDX-License-Identifier: Apache-2.0
"""`inn create`: describe a machine that stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from innkeeper.cli.options import machine_options, machine_table
from innkeeper.errors import UsageError
from innkeeper.model.toml import machine_from_table, read_table
from innkeeper.registry.layout import host_layout
from innkeeper.registry.machines import create_machine


@click.command()
@machine_options
@click.option("-f", "--file", metavar="FILE", help="A TOML file; options go before its values.")
@click.argument("name", required=False)
@click.pass_context
def create(ctx: click.Context, /, name: str | None, file: str | None, **values: Any) -> None:
    """Create the machine NAME; `inn start` starts it.

    Every setting is an option, or a key of a TOML file:

    \b
      name = "web"
      cpus = 2
      memory = "1G"
      network = "user"
      ports = ["8080:80"]
      restart = "on-failure"

    `inn schema machine` prints all keys.
    """
    table = _file_table(file) if file is not None else {}
    table |= machine_table(
        values, given=lambda key: ctx.get_parameter_source(key) is ParameterSource.COMMANDLINE
    )
    if name is None and "name" not in table:
        raise UsageError("a machine needs a name", fix="inn create NAME")
    machine = machine_from_table(table, source=file or "the command line", name=name)
    create_machine(host_layout(), machine)
    click.echo(machine.name)


def _file_table(file: str) -> dict[str, Any]:
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"cannot read {file}: {exc}", stage="machine file") from exc
    return read_table(text, source=file)
