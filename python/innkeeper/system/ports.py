# SPDX-License-Identifier: Apache-2.0
"""Whether a port of this host is free, and whose it is where it is not."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import sys
from pathlib import Path

from innkeeper.system.sockets import StreamSocket

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
# A socket bound to "::" takes IPv4 too, unless its program forbids it.
_ANY = (ipaddress.IPv4Address(0), ipaddress.IPv6Address(0))

# The state of a listening TCP socket, and of every bound UDP one (proc_net(5), tcp_states.h).
_WAITS = {"tcp": "0A", "udp": "07"}


def find_port_fault(protocol: str, address: str, port: int) -> str | None:
    """None where a server could listen there now, else the reason in words."""
    try:
        listen_port(protocol, address, port).close()
    except OSError as exc:
        return exc.strerror or str(exc)
    return None


def listen_port(protocol: str, address: str, port: int) -> StreamSocket:
    """A socket on a port of this host, listening where that is TCP; the caller closes it.

    :raise OSError: it is taken, or not ours to bind.
    """
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET, kind)
    try:
        # For asyncio, which takes over what is bound.
        sock.settimeout(0.0)
        if protocol == "tcp":
            # Connections of the last server that linger do not matter.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if protocol == "tcp":
            sock.listen()
    except OSError:
        sock.close()
        raise
    return sock


def find_port_holder(protocol: str, port: int) -> str:
    """The process that listens on a port, as "process 12 (nginx)"; empty where nobody tells."""
    inodes = {
        f"socket:[{fields[9]}]"
        for family in ("", "6")
        for fields in _sockets(f"/proc/net/{protocol}{family}")
        if fields[3] == _WAITS[protocol] and int(fields[1].rpartition(":")[2], 16) == port
    }
    for folder in Path("/proc").iterdir() if inodes else ():
        # Those of other users are not shown to us, and processes come and go.
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and any(
                os.readlink(fd) in inodes for fd in (folder / "fd").iterdir()
            ):
                return f"process {folder.name} ({(folder / 'comm').read_text().strip()})"
    return ""


def target_listens(target: str) -> bool | None:
    """Whether somebody listens at "unix:/path" or "tcp:ADDRESS:PORT"; nobody is dialled.

    None for an address that is another host's, which only its answer could tell.
    """
    kind, _, where = target.partition(":")
    if kind == "unix":
        # unix(7) has no state in words; this flag is __SO_ACCEPTCON.
        listening = (
            row[7]
            for row in _sockets("/proc/net/unix", fields=8)
            if len(row) == 8 and int(row[3], 16) & 1 << 16
        )
        # A program that bound a relative path is listed by that.
        path = Path(where)
        known = {where, str(path.resolve())}
        return path.is_socket() and any(name in known or name == path.name for name in listening)
    address, _, port = where.rpartition(":")
    wanted = ipaddress.ip_address(address.strip("[]"))
    if not wanted.is_loopback and not _is_own(wanted):
        return None
    return any(
        row[3] == _WAITS["tcp"]
        and int(row[1].rpartition(":")[2], 16) == int(port)
        and _proc_address(row[1].rpartition(":")[0]) in (wanted, *_ANY)
        for family in ("", "6")
        for row in _sockets(f"/proc/net/tcp{family}")
    )


def _is_own(address: IpAddress) -> bool:
    """Whether it is one of this host's: only those can be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((str(address), 0))
        return True
    return False


def _proc_address(text: str) -> IpAddress:
    """An address of /proc/net: words of 32 bits in the host's order."""
    words = bytes.fromhex(text)
    if sys.byteorder == "little":
        words = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
    found = ipaddress.ip_address(words)
    return getattr(found, "ipv4_mapped", None) or found


def _sockets(path: str, *, fields: int = 0) -> list[list[str]]:
    with contextlib.suppress(OSError):
        return [line.split(None, fields - 1) for line in Path(path).read_text().splitlines()[1:]]
    return []
