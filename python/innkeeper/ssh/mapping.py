# SPDX-License-Identifier: Apache-2.0
"""What SSH asks for, in the guest's words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from innkeeper.agent.setup import WindowSize
from innkeeper.errors import UsageError
from innkeeper.model.machine import Command
from innkeeper.model.names import check_name
from innkeeper.system import signals

SUFFIX = ".inn"

# The agent's own program, under the one name it has in every guest, also for a
# user who cannot see where it is installed (proc(5)).
_AGENT = "/proc/self/exe"
SFTP = (_AGENT, "sftp-server")

# What sshd does: the user's own shell gets the command. The agent sets SHELL.
_IN_SHELL = 'exec "${SHELL:-/bin/sh}" -c "$1"'

# Those that the guest's agent can send (`proto/vsh.proto`).
SIGNALS = {
    "HUP": signals.HANGUP,
    "INT": signals.INTERRUPT,
    "QUIT": signals.QUIT,
    "TERM": signals.TERMINATE,
}

_LOOPBACK = ("127.0.0.1", "::1")
# The agent refuses a larger number; this bounds it where it comes in.
_WINDOW_LIMIT = 0xFFFF


def machine_of(host: str) -> str:
    """The machine that a host name of the command line means.

    :raise UsageError: it can be none.
    """
    return check_name(host.removesuffix(SUFFIX))


def shell_argv(command: str) -> tuple[str, ...]:
    """The argv of `ssh HOST COMMAND`."""
    return ("/bin/sh", "-c", _IN_SHELL, "sh", command)


def unix_argv(path: str) -> tuple[str, ...]:
    """The argv of a connection to a Unix socket of the guest."""
    return (_AGENT, "unix-connect", path)


def session_command(
    argv: tuple[str, ...], user: str, environment: Mapping[bytes, bytes], term: str | None
) -> Command:
    """The command of a session.

    Variables that are not UTF-8 are left out, as sshd leaves out what it does not accept.

    :param term: the terminal's type; None without a terminal.
    """
    env: dict[str, str] = {}
    for key, value in environment.items():
        try:
            env[key.decode()] = value.decode()
        except UnicodeDecodeError:
            continue
    if term is not None:
        env["TERM"] = term
    return Command(argv=argv, user=user, env=env)


def window_of(columns: int, rows: int) -> WindowSize:
    """The size of a terminal's window, as the client tells it."""
    return WindowSize(rows=min(rows, _WINDOW_LIMIT), cols=min(columns, _WINDOW_LIMIT))


def forward_addresses(host: str, name: str) -> tuple[str, ...]:
    """The guest's addresses to try for a forwarded connection, in this order.

    Whether an IP address is the guest's own is the agent's to say.

    :raise UsageError: another host: the guest is not a way into other networks.
    """
    bare = host.strip("[]").lower().rstrip(".")
    if bare in ("", "localhost", "*", name, name + SUFFIX):
        return _LOOPBACK
    try:
        return (str(ip_address(bare)),)
    except ValueError as exc:
        raise UsageError(
            f"{host!r} is not the guest {name!r}: forwarded connections end in the guest itself",
            stage="forward",
            fix="name localhost or an address of the guest",
        ) from exc
