# SPDX-License-Identifier: Apache-2.0
"""`inn ssh`, `inn ssh-config` and `inn ssh-proxy`: OpenSSH's client and guests."""

from __future__ import annotations

import os
from pathlib import Path

import click

from innkeeper.errors import MissingProgram, UsageError
from innkeeper.keeper.machines import require_answering
from innkeeper.registry.layout import Layout, host_layout
from innkeeper.ssh.config import (
    Options,
    install,
    own_program,
    places,
    plan_arguments,
    plan_file,
    plan_options,
    remove,
)
from innkeeper.ssh.mapping import SUFFIX, machine_of
from innkeeper.system.process import become

_PORT = 22


@click.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
@click.argument("destination", metavar="[USER@]NAME")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
def ssh(destination: str, arguments: tuple[str, ...]) -> None:
    """Run OpenSSH's `ssh` with the machine NAME; nothing has to be installed first.

    ARGS are those of ssh: a command, or options such as -L 8080:localhost:80.
    The guest needs neither a network nor an SSH server. With `inn ssh-config
    --install`, plain `ssh NAME.inn` does the same, and so do scp, sftp and rsync.
    """
    layout = host_layout()
    user, _, host = destination.rpartition("@")
    name = machine_of(host)
    require_answering(layout, name)
    at = f"{user}@" if user else ""
    # What stands in an option would win over the destination.
    options = plan_arguments(
        tuple(pair for pair in _options(layout) if not user or pair[0] != "User")
    )
    try:
        become(("ssh", *options, f"{at}{name}{SUFFIX}", *arguments))
    except MissingProgram as exc:
        exc.fix = "apt install openssh-client"
        raise


@click.command(name="ssh-config")
@click.option("--install", "action", flag_value="install", help="Make plain ssh know machines.")
@click.option("--remove", "action", flag_value="remove", help="Undo that.")
def ssh_config(action: str | None) -> None:
    """Print what makes `ssh NAME.inn` work, or put it in place.

    Without an option the configuration is printed, for a file of your own.
    --install writes it to ~/.ssh/innkeeper.config and includes that at the top
    of ~/.ssh/config; everything else there stays as it is. Both can be repeated.
    """
    content = plan_file(_options(host_layout()))
    at = places(Path.home())
    if action == "install":
        changed = install(at, content)
        click.echo(f"inn: {at.own} {'is' if changed else 'was'} in place", err=True)
    elif action == "remove":
        changed = remove(at)
        click.echo(f"inn: {at.own} {'is removed' if changed else 'was not there'}", err=True)
    else:
        click.echo(content, nl=False)


@click.command(name="ssh-proxy")
@click.argument("name")
@click.argument("port", type=int, default=_PORT)
def ssh_proxy(name: str, port: int) -> int:
    """Be the SSH server of the machine NAME on stdin and stdout, for ssh's ProxyCommand.

    Whoever may run this may do everything in the guest, so no proof of identity
    is asked for. The user of ssh is the user in the guest. NAME may end in ".inn".

    \b
    Served: shells, commands, terminals, signals, SFTP, and connections to the
    guest's own TCP ports and Unix sockets (-L, -D). Not served: -R, agent and
    X11 forwarding.
    """
    if port != _PORT:
        raise UsageError(
            f"there is no SSH server on port {port} of {name!r}",
            fix="leave the port away; a server in the guest itself is reached by -L",
        )
    machine = machine_of(name)
    from innkeeper.ssh.server import serve_stdio

    return serve_stdio(
        host_layout(), machine, tell=lambda line: click.echo(f"inn: {line}", err=True)
    )


def _options(layout: Layout) -> Options:
    return plan_options(layout, own_program(), os.environ)
