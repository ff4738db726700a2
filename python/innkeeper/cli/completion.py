# SPDX-License-Identifier: Apache-2.0
"""`inn completion`: the script that makes a shell complete `inn`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_INSTALL = {
    "bash": 'eval "$(inn completion bash)"  # in ~/.bashrc',
    "zsh": 'eval "$(inn completion zsh)"  # in ~/.zshrc, after compinit',
    "fish": "inn completion fish > ~/.config/fish/completions/inn.fish",
}


@click.command(epilog="\b\nTo install it:\n" + "\n".join(f"  {line}" for line in _INSTALL.values()))
@click.argument("shell", type=click.Choice(sorted(_INSTALL)))
def completion(shell: str) -> None:
    """Print the completion script for SHELL."""
    from innkeeper.cli.main import inn

    found = get_completion_class(shell)
    assert found is not None, "click knows bash, zsh and fish"
    click.echo(found(inn, {}, "inn", "_INN_COMPLETE").source())
