# SPDX-License-Identifier: Apache-2.0
"""`inn schema`: the files that innkeeper reads, as JSON Schema."""

from __future__ import annotations

import click
import msgspec

from innkeeper.model.recipe import recipe_schema
from innkeeper.model.toml import machine_schema

_SCHEMAS = {"machine": machine_schema, "recipe": recipe_schema}


@click.command()
@click.argument("what", type=click.Choice(list(_SCHEMAS)))
def schema(what: str) -> None:
    """Print the JSON Schema of a machine file or of an image recipe."""
    click.echo(msgspec.json.format(msgspec.json.encode(_SCHEMAS[what]()), indent=2))
