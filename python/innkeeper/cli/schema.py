# SPDX-License-Identifier: Apache-2.0
"""`inn schema`: the files that innkeeper reads, as JSON Schema."""

from __future__ import annotations

import click
import msgspec

from innkeeper.model.toml import machine_schema


@click.command()
@click.argument("what", type=click.Choice(["machine"]))
def schema(what: str) -> None:  # noqa: ARG001 - there is one so far
    """Print the JSON Schema of a machine file."""
    click.echo(msgspec.json.format(msgspec.json.encode(machine_schema()), indent=2))
