# SPDX-License-Identifier: Apache-2.0
"""Host services: what a port of the host, as guests see it, may be and lead to. Pure."""

from __future__ import annotations

import ipaddress
from pathlib import PurePosixPath

from innkeeper.errors import UsageError
from innkeeper.model.policy import PORT_MAXIMUM

# Ports of the host that innkeeper itself listens on for guests, and what for.
OWN_PORTS = {7078: "rings", 7777: "the announcement", 9999: "the log", 16384: "shares"}

_TCP_MAXIMUM = 65535
# sun_path of unix(7), with its null byte.
_PATH_MAXIMUM = 107
_FIX = 'write "unix:/path/of.sock" or "tcp:127.0.0.1:8080"'


def check_port(port: object) -> int:
    """The port itself, if a service of the host may have it.

    :raise UsageError: it is none, or innkeeper's own.
    """
    if type(port) is not int or not 0 <= port <= PORT_MAXIMUM:
        raise UsageError(f"{port!r} is no port")
    if port in OWN_PORTS:
        raise UsageError(
            f"port {port} of the host is innkeeper's own, for {OWN_PORTS[port]}",
            fix="choose another; guests see this number, the service keeps its own",
        )
    return port


def check_target(text: object, *, folder: str) -> str:
    """What a service leads to, as "unix:/absolute/path" or "tcp:ADDRESS:PORT".

    :param folder: what a relative path is relative to.
    :raise UsageError: it is neither.
    """
    kind, _, rest = text.partition(":") if isinstance(text, str) else ("", "", "")
    if kind == "unix" and rest:
        path = str(PurePosixPath(folder) / rest)
        if "\0" in path or len(path.encode()) > _PATH_MAXIMUM:
            raise UsageError(
                f"the path {path!r} is too long for a socket",
                fix=f"at most {_PATH_MAXIMUM} bytes",
            )
        return f"unix:{path}"
    address, _, port = rest.rpartition(":")
    if kind != "tcp" or not port.isdecimal() or not 0 < int(port) <= _TCP_MAXIMUM:
        raise UsageError(f"{text!r} is nothing that a service leads to", fix=_FIX)
    try:
        found = ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
    except ValueError as exc:
        raise UsageError(
            f"{address!r} is no inet address", fix="names are not looked up: write 127.0.0.1"
        ) from exc
    return f"tcp:[{found}]:{int(port)}" if found.version == 6 else f"tcp:{found}:{int(port)}"
