# SPDX-License-Identifier: Apache-2.0
"""The command `inn`: its verbs, imported only when called, and the one place that prints errors."""

from __future__ import annotations

import itertools
import sys

import click

from innkeeper.cli.groups import LazyGroup
from innkeeper.cli.output import render_error
from innkeeper.errors import EXIT_FAILURE, EXIT_USAGE, InnError
from innkeeper.system.descriptors import silence
from innkeeper.system.interrupt import Interrupted

# Verb to the attribute that implements it, and its line in `inn --help`.
VERBS = {
    "run": ("innkeeper.cli.run:run", "Boot a guest, run a command in it, leave nothing behind."),
    "create": ("innkeeper.cli.create:create", "Describe a machine that stays."),
    "start": ("innkeeper.cli.lifecycle:start", "Start machines."),
    "stop": ("innkeeper.cli.lifecycle:stop", "Stop guests in order, or less politely."),
    "restart": ("innkeeper.cli.lifecycle:restart", "Stop machines and start them again."),
    "clock": ("innkeeper.cli.lifecycle:clock", "Set the clocks of guests to the host's."),
    "set": ("innkeeper.cli.set:set_verb", "Change a machine's settings, or a guest's memory."),
    "rm": ("innkeeper.cli.lifecycle:rm", "Remove machines."),
    "ls": ("innkeeper.cli.ls:ls", "List machines and running guests."),
    "inspect": ("innkeeper.cli.ls:inspect", "Show everything that is known of a machine."),
    "top": ("innkeeper.cli.top:top", "Show what running guests take of this host."),
    "exec": ("innkeeper.cli.exec:exec_verb", "Run a command in a running guest."),
    "shell": ("innkeeper.cli.exec:shell", "Open a shell in a running guest."),
    "console": ("innkeeper.cli.console:console", "Sit at a guest's serial console."),
    "attach": ("innkeeper.cli.sessions:attach", "Go on with a session that was left."),
    "sessions": ("innkeeper.cli.sessions:sessions", "List the sessions that outlive inn."),
    "ssh": ("innkeeper.cli.ssh:ssh", "Run ssh with a running guest; it needs no network."),
    "ssh-config": ("innkeeper.cli.ssh:ssh_config", "Make ssh, scp and rsync know NAME.inn."),
    "ssh-proxy": ("innkeeper.cli.ssh:ssh_proxy", "Be the SSH server of a guest, for ssh itself."),
    "cp": ("innkeeper.cli.cp:cp", "Copy files between the host and a running guest."),
    "logs": ("innkeeper.cli.logs:logs", "Print what a guest's console and its keeper said."),
    "events": ("innkeeper.cli.events:events", "Print every change of state as it happens."),
    "wait": ("innkeeper.cli.lifecycle:wait_verb", "Wait until a machine is ready or has ended."),
    "pause": ("innkeeper.cli.lifecycle:pause", "Stop the CPUs of guests."),
    "resume": ("innkeeper.cli.lifecycle:resume", "Let paused guests go on."),
    "share": ("innkeeper.cli.share:share", "Show folders of the host in a guest that runs."),
    "image": ("innkeeper.cli.image:image", "Build, import and keep images to boot from."),
    "disk": ("innkeeper.cli.disk:disk", "Make and keep disks that outlive guests."),
    "up": ("innkeeper.cli.topology:up", "Bring up the machines of a topology file."),
    "down": ("innkeeper.cli.topology:down", "Bring a topology down."),
    "ps": ("innkeeper.cli.topology:ps", "Show the topologies that are up."),
    "policy": ("innkeeper.cli.policy:policy", "Say who may reach whom, and why."),
    "viptables": ("innkeeper.cli.viptables:viptables", "Change rules as Argo's viptables does."),
    "schema": ("innkeeper.cli.schema:schema", "Print the JSON Schema of a file for innkeeper."),
    "plan": ("innkeeper.cli.plan:plan", "Print exactly what a command would do; start nothing."),
    "doctor": (
        "innkeeper.cli.doctor:doctor",
        "Check what this host can do, and say how to fix it.",
    ),
    "completion": ("innkeeper.cli.completion:completion", "Print a shell's completion script."),
}

EXIT_CODES = """\b
Exit codes:
  the guest command's own; 128+N when it died from signal N;
  2 wrong usage; 124 a time limit passed; 125 innkeeper or the guest failed;
  126 the guest cannot execute the command; 127 the guest has no such command.
"""


@click.group(
    cls=LazyGroup,
    verbs=VERBS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)
@click.option("-V", "--version", is_flag=True, help="Print the version and exit.")
def inn(version: bool) -> None:
    """Start Linux guests from one command, with declared doors to their host.

    \b
    inn run -- uname -r            a command in a fresh guest
    inn run                        a shell in a fresh guest
    inn doctor                     what this host can do

    `inn COMMAND --help` explains each command.
    """
    if version:
        # Reached only beside other options; alone it is answered in __main__.
        from innkeeper._version import __version__

        click.echo(f"inn {__version__}")
        raise click.exceptions.Exit(0)


def run_cli(arguments: list[str]) -> int:
    """Run `inn` with these arguments; returns the exit code, prints every error."""
    try:
        code: object = inn.main(args=arguments, prog_name="inn", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (click.ClickException, InnError) as exc:
        return _tell(exc, arguments)
    except Interrupted as exc:
        return exc.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        return 130
    except OSError as exc:
        return _lose_output(exc)


def _tell(error: click.ClickException | InnError, arguments: list[str]) -> int:
    if isinstance(error, InnError):
        render_error(error, as_json=_wants_json(arguments))
        return error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
    else:
        error.show()
    return EXIT_USAGE


def _lose_output(error: OSError) -> int:
    """The exit code when our stdout cannot be written; a reader that left is no failure."""
    # What is still buffered must not fail once more at the end.
    silence(1)
    if isinstance(error, BrokenPipeError):
        return 141
    click.echo(f"inn: error: cannot write the output: {error.strerror}", err=True)
    return EXIT_FAILURE


def _wants_json(arguments: list[str]) -> bool:
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--format=json" in own or any(
        pair == ("--format", "json") for pair in itertools.pairwise(own)
    )
