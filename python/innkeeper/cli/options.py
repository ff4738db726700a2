# SPDX-License-Identifier: Apache-2.0
"""The options of a machine and of a command, declared once for every verb that takes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from innkeeper.errors import UsageError
from innkeeper.keeper.prepare import RunRequest
from innkeeper.model.machine import AcceleratorChoice, Command, Machine, Network, Wait
from innkeeper.model.sizes import parse_duration, parse_size
from innkeeper.registry.names import ephemeral_name

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("-n", "--name", metavar="NAME", help="Name of the guest and its host name."),
    click.option("-c", "--cpus", type=int, default=1, show_default=True, help="Virtual CPUs."),
    click.option(
        "-m", "--memory", default="512M", show_default=True, metavar="SIZE", help="Guest memory."
    ),
    click.option("--image", default="tiny", show_default=True, help="Image to boot."),
    click.option(
        "--kernel",
        metavar="FILE",
        help="Kernel in place of the image's; its modules are sought beside it.",
    ),
    click.option("--initrd", metavar="FILE", help="Initramfs in place of the image's."),
    click.option(
        "--append", multiple=True, metavar="WORDS", help="Added to the kernel command line."
    ),
    click.option(
        "--accel",
        type=click.Choice(get_args(AcceleratorChoice)),
        default="auto",
        show_default=True,
        help="auto tries KVM once per host with a short boot.",
    ),
    click.option(
        "--network",
        type=click.Choice(get_args(Network)),
        default="none",
        show_default=True,
        help="user: outgoing connections through the host.",
    ),
    click.option(
        "-e",
        "--env",
        multiple=True,
        metavar="KEY[=VALUE]",
        help="Variable for the command; without a value, the host's.",
    ),
    click.option("-w", "--workdir", metavar="DIR", help="Folder in which the command starts."),
    click.option("-u", "--user", metavar="USER", help="User of the guest: a name or UID[:GID]."),
    click.option(
        "-t",
        "--timeout",
        metavar="TIME",
        help="Limit for the whole run, such as 90, 1.5s or 2m; exit code 124.",
    ),
    click.option(
        "--wait",
        type=click.Choice(get_args(Wait)),
        help="What ready means. none: no agent is needed, the console goes to stdout, "
        "and the run ends when the guest powers off. [default: agent; "
        "network with --network user]",
    ),
    click.option("--console", metavar="FILE", help="Copy the guest's console to FILE."),
)


def machine_options(function: F) -> F:
    """Put the options of a machine and its command on a click command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def build_request(values: dict[str, Any]) -> tuple[RunRequest, Command]:
    """The request of these option values.

    :raise UsageError: a value makes no sense.
    """
    argv = tuple(values["command"])
    wait: Wait = values["wait"] or ("network" if values["network"] == "user" else "agent")
    if wait == "network" and values["network"] == "none":
        raise UsageError("--wait network needs a network", fix="add --network user")
    if wait == "none" and argv:
        raise UsageError(
            "--wait none does not wait for the agent that would run the command",
            fix="leave out the command, or --wait none",
        )
    machine = Machine(
        name=values["name"] or ephemeral_name(),
        cpus=values["cpus"],
        memory_bytes=parse_size(values["memory"]),
        image=values["image"],
        kernel=values["kernel"],
        initrd=values["initrd"],
        append=tuple(values["append"]),
        accel=values["accel"],
        network=values["network"],
    )
    request = RunRequest(
        machine=machine,
        wait=wait,
        timeout_s=parse_duration(values["timeout"]) if values["timeout"] else None,
        console_file=_console(values["console"], wait),
    )
    command = Command(
        argv=argv,
        env=dict(_variable(text) for text in values["env"]),
        workdir=values["workdir"],
        user=values["user"],
    )
    return request, command


def _console(path: str | None, wait: Wait) -> str | None:
    if path is not None:
        return str(Path(path).absolute())
    return "-" if wait == "none" else None


def _variable(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key:
        raise UsageError(f"{text!r} is not a variable", fix="write it as KEY=VALUE")
    if separator:
        return key, value
    if key not in os.environ:
        raise UsageError(f"the variable {key} is not set here", fix=f"give --env {key}=VALUE")
    return key, os.environ[key]
