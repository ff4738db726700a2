# SPDX-License-Identifier: Apache-2.0
"""The options of a machine and of a command, declared once for every verb that takes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from innkeeper.cli.host_root import as_on_host, writable_shares
from innkeeper.errors import UsageError
from innkeeper.keeper.prepare import RunRequest
from innkeeper.model.machine import (
    AcceleratorChoice,
    Command,
    Forward,
    Machine,
    RestartPolicy,
    RootDevice,
    RootOf,
    RootOverlay,
    Wait,
)
from innkeeper.model.share import ShareCache, ShareTransportChoice, anchor_share
from innkeeper.model.sizes import parse_duration
from innkeeper.model.toml import KEYS, machine_from_table
from innkeeper.registry.names import ephemeral_name

F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[F], F]

# Every one of them is a key of a machine file too (`innkeeper.model.toml`).
_MACHINE = (
    click.option(
        "--cid", type=int, metavar="N", help="The guest's vsock address; any that is free."
    ),
    click.option("-c", "--cpus", type=int, default=1, show_default=True, help="Virtual CPUs."),
    click.option(
        "-m", "--memory", default="512M", show_default=True, metavar="SIZE", help="Guest memory."
    ),
    click.option("--image", default="tiny", show_default=True, help="Image to boot: `inn image`."),
    click.option("--flavour", metavar="NAME", help="Which of the image's kernels."),
    click.option(
        "--root",
        type=click.Choice(get_args(RootOf)),
        default="image",
        show_default=True,
        help="host: the guest's files are this host's, all that you may read (as root: every "
        "file, secrets too); what it writes stays in its memory. /dev, /proc, /run, /sys and "
        "/tmp are its own.",
    ),
    click.option(
        "--rw",
        multiple=True,
        metavar="DIR",
        help="With --root host: let the guest change this folder of the host.",
    ),
    click.option(
        "--root-overlay",
        type=click.Choice(get_args(RootOverlay)),
        default="temp",
        show_default=True,
        help="Where the guest's changes of its image's root go: to memory; to a disk of "
        "the machine's own; into a copy of the root of its own, which is of a file system that "
        "can be written; or nowhere (read-only).",
    ),
    click.option(
        "--root-device",
        type=click.Choice(get_args(RootDevice)),
        default="blk",
        show_default=True,
        help="How an image's root reaches the guest: as a disk (virtio-blk), or as memory "
        "that guests share with the host's page cache (virtio-pmem, /dev/pmem0).",
    ),
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
        default="none",
        show_default=True,
        metavar="none|user|tap|bridge=NAME",
        help="user: outgoing connections through the host. tap: an interface of the host's own, "
        "with NAT, DHCP and DNS (needs root). bridge=NAME: a place on a bridge of the host.",
    ),
    click.option(
        "-p",
        "--publish",
        "ports",
        multiple=True,
        metavar="[ADDR:]HOST:GUEST[/udp]",
        help="Lead a port of the host (127.0.0.1 unless told) to one of the guest.",
    ),
    click.option(
        "--disk",
        "disks",
        multiple=True,
        metavar="NAME:/PATH[:ro]",
        help="A disk of `inn disk` and its place in the guest; :ro lets other guests read it too.",
    ),
    click.option(
        "--forward",
        type=click.Choice(get_args(Forward)),
        default="none",
        show_default=True,
        help="auto: TCP ports that the guest listens on appear at 127.0.0.1, without a network.",
    ),
    click.option(
        "-v",
        "--share",
        "shares",
        multiple=True,
        metavar="HOST:GUEST[:OPTIONS]",
        help="Show the host's folder HOST at GUEST. OPTIONS, with commas between: ro keeps the "
        "guest from changing it; uid=GUEST-HOST-COUNT, gid= and id= (both) say whom the guest's "
        "users are on the host; squash makes them all one.",
    ),
    click.option(
        "--share-cache",
        type=click.Choice(get_args(ShareCache)),
        default="never",
        show_default=True,
        help="What of its shares the guest keeps in its own cache; never sees every change "
        "of the host at once.",
    ),
    click.option(
        "--share-transport",
        type=click.Choice(get_args(ShareTransportChoice)),
        default="auto",
        show_default=True,
        help="How shares get into the guest; auto takes virtiofs where host and guest can, "
        "else 9p, and says so.",
    ),
    click.option(
        "--notify",
        is_flag=True,
        help="What the host changes in shared folders wakes the guest's programs that watch "
        "them (inotify).",
    ),
    click.option(
        "--firmware",
        default="default",
        show_default=True,
        metavar="default|uefi|CODE:VARIABLES",
        help="uefi: OVMF, with variables of the machine's own.",
    ),
    click.option(
        "--timezone",
        default="host",
        show_default=True,
        metavar="host|utc|guest|AREA/CITY",
        help="The guest's time zone; host follows this host's, guest leaves it alone.",
    ),
    click.option(
        "--oem-string",
        "oem_strings",
        multiple=True,
        metavar="TEXT",
        help="A text in the guest's SMBIOS table, as dmidecode -t 11 prints it.",
    ),
    click.option(
        "--qemu-arg",
        "qemu_args",
        multiple=True,
        metavar="ARG",
        help="One more argument for QEMU, after its own: --qemu-arg=-device --qemu-arg=edu.",
    ),
)

_RESTART = click.option(
    "--restart",
    type=click.Choice(get_args(RestartPolicy)),
    default="never",
    show_default=True,
    help="What happens when the guest ends unasked.",
)

_COMMAND = (
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
)

_RUN = (
    click.option("-n", "--name", metavar="NAME", help="Name of the guest and its host name."),
    click.option(
        "--wait",
        type=click.Choice(get_args(Wait)),
        help="What ready means. none: no agent is needed, the console goes to stdout, "
        "and the run ends when the guest powers off. [default: agent; "
        "network where there is one]",
    ),
    click.option("--console", metavar="FILE", help="Copy the guest's console to FILE."),
)

TTY = click.option(
    "--tty/--no-tty",
    default=None,
    help="A pseudo-terminal for the command. [default: where stdin and stdout are terminals]",
)

WORKDIR_OF = click.option(
    "--workdir-of",
    type=click.IntRange(1),
    metavar="PID",
    help="Start in the folder that this process of the guest is in; `inn sessions` shows pids.",
)

DETACH_KEYS = click.option(
    "--detach-keys",
    default="ctrl-],d",
    show_default=True,
    metavar="KEYS",
    help='Keys that leave the session running, such as ctrl-p,ctrl-q; "" for none.',
)


def _put(options: Sequence[Any], function: F) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def machine_options(function: F) -> F:
    """The options of a machine that stays."""
    return _put((*_MACHINE, _RESTART), function)


def run_options(function: F) -> F:
    """The options of a machine for one run, and of its command."""
    return _put((*_RUN, *_MACHINE, *_COMMAND), function)


def command_options(function: F) -> F:
    """The options of a command in a guest that runs."""
    return _put(_COMMAND, function)


def machine_table(values: dict[str, Any], *, given: Callable[[str], bool]) -> dict[str, Any]:
    """The options as a machine file's table.

    :param given: whether an option was written on the command line; the others
        are left to the file or the model's default.
    """
    table = {
        key: list(values[key]) if isinstance(values[key], tuple) else values[key]
        for key in KEYS
        if key != "name" and key in values and given(key)
    }
    if "shares" in table:
        here = str(Path.cwd())
        table["shares"] = [anchor_share(text, here) for text in table["shares"]]
    if values.get("rw"):
        table["shares"] = [*table.get("shares", ()), *writable_shares(values["rw"])]
    return table


def build_request(values: dict[str, Any]) -> tuple[RunRequest, Command]:
    """The request of these option values.

    :raise UsageError: a value makes no sense.
    """
    command = build_command(values)
    table = machine_table(values, given=lambda key: values[key] is not None)
    if table["root"] == "host":
        command, table = as_on_host(command, table)
    machine: Machine = machine_from_table(
        table, source="the command line", name=values["name"] or ephemeral_name()
    )
    wait: Wait = values["wait"] or ("network" if machine.network != "none" else "agent")
    if wait == "network" and machine.network == "none":
        raise UsageError("--wait network needs a network", fix="add --network user")
    if wait == "none" and command.argv:
        raise UsageError(
            "--wait none does not wait for the agent that would run the command",
            fix="leave out the command, or --wait none",
        )
    request = RunRequest(
        machine=machine,
        wait=wait,
        timeout_s=parse_duration(values["timeout"]) if values["timeout"] else None,
        console_file=_console(values["console"], wait),
    )
    return request, command


def build_command(values: dict[str, Any]) -> Command:
    """The command of these option values.

    :raise UsageError: a variable is none.
    """
    argv = tuple(values["command"])
    if values["workdir"] is not None and values.get("workdir_of") is not None:
        raise UsageError("--workdir and --workdir-of together", fix="give one of them")
    return Command(
        # `inn exec NAME -- COMMAND`: what stands after NAME is not parsed.
        argv=argv[1:] if argv[:1] == ("--",) else argv,
        env=dict(_variable(text) for text in values["env"]),
        workdir=values["workdir"],
        workdir_of=values.get("workdir_of"),
        user=values["user"],
    )


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
