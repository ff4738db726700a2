# SPDX-License-Identifier: Apache-2.0
"""The SSH server behind `ssh`'s ProxyCommand: one client on stdin and stdout, one guest.

::

    ssh <-pipes-> this process <-vsock-> agent in the guest

Nobody is asked who they are: whoever can start this process can open the
guest's sockets as well, which lie in a folder of mode 0700. What comes from the
guest is channel data and never read as SSH.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import asyncssh
from asyncssh.constants import MSG_IGNORE
from asyncssh.packet import String

from innkeeper.errors import HostError, InnError
from innkeeper.keeper.client import GuestWitness, witness
from innkeeper.keeper.machines import require_answering
from innkeeper.registry.layout import Layout
from innkeeper.ssh.flow import WINDOW_BYTES
from innkeeper.ssh.hostkey import ALGORITHM, host_key
from innkeeper.ssh.relay import Relay, connect_tcp, connect_unix
from innkeeper.ssh.session import GuestSession
from innkeeper.system.duplex import StdioSocket
from innkeeper.system.signals import leave_to_parent

# The connection never leaves this host: the cheapest ciphers that every client has.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr")
_PACKET_BYTES = 64 << 10
_FLUSH_LIMIT_S = 5.0
# OpenSSH's master (9.2) goes to sleep over what it has to send when a client of
# its shared connection is killed: it looks through its channels, then lets the
# client's channel go, then waits, and only another event makes it look again.
# Without one the client's session would never end.
_STIR_EVERY_S = 2.0

Tell = Callable[[str], None]


class GuestServer(asyncssh.SSHServer):
    """What a client may ask of a guest."""

    def __init__(self, vsock_path: Path, name: str, tell: Tell) -> None:
        self._vsock_path = vsock_path
        self._name = name
        self._tell = tell
        self._user = ""

    def begin_auth(self, username: str) -> bool:
        """The user of the guest; no proof is asked for."""
        self._user = username
        return False

    def session_requested(self) -> GuestSession:
        """A shell, a command, or SFTP."""
        return GuestSession(self._vsock_path, self._user)

    def connection_requested(
        self,
        dest_host: str,
        dest_port: int,
        orig_host: str,  # noqa: ARG002
        orig_port: int,  # noqa: ARG002
    ) -> Coroutine[Any, Any, Relay]:
        """A connection to a TCP port of the guest (`ssh -L`, `ssh -D`)."""
        return connect_tcp(self._vsock_path, self._name, dest_host, dest_port)

    def unix_connection_requested(self, dest_path: str) -> Coroutine[Any, Any, Relay]:
        """A connection to a Unix socket of the guest."""
        return connect_unix(self._vsock_path, self._user, dest_path)

    def server_requested(self, listen_host: str, listen_port: int) -> bool:  # noqa: ARG002
        """A port of the guest that leads here (`ssh -R`): not served, and said so."""
        self._tell(f"remote forwarding (-R {listen_port}) is not possible: {_NO_WAY_BACK}")
        return False

    def unix_server_requested(self, listen_path: str) -> bool:
        """The same with a Unix socket."""
        self._tell(f"remote forwarding (-R {listen_path}) is not possible: {_NO_WAY_BACK}")
        return False


_NO_WAY_BACK = "a guest gets no way to the host over ssh"


def serve_stdio(layout: Layout, name: str, *, tell: Tell) -> int:
    """Serve the client at our stdin and stdout until it leaves; the exit code.

    :param tell: called with lines for the client's user.
    :raise UnknownName: there is no such machine.
    :raise InnError: it does not run, or ended while the client was connected.
    """
    require_answering(layout, name)
    key = host_key(layout)
    leave_to_parent()
    with witness(layout, name) as guest, StdioSocket() as stdio:
        error = asyncio.run(_serve(guest, name, key, stdio, tell))
        stdio.finish(_FLUSH_LIMIT_S)
    if error is not None:
        raise error
    return 0


async def _serve(
    guest: GuestWitness, name: str, key: asyncssh.SSHKey, stdio: StdioSocket, tell: Tell
) -> InnError | None:
    """Until the client leaves (None), or the guest ends (why)."""
    try:
        conn = await asyncssh.run_server(
            stdio.sock,
            config=None,
            server_factory=lambda: GuestServer(guest.vsock_path, name, tell),
            server_host_keys=[key],
            signature_algs=[ALGORITHM],
            encryption_algs=_CIPHERS,
            compression_algs=None,
            encoding=None,
            line_editor=False,
            agent_forwarding=False,
            x11_forwarding=False,
            gss_host=None,
            window=WINDOW_BYTES,
            max_pktsize=_PACKET_BYTES,
            login_timeout=0,
        )
    except (asyncssh.Error, OSError) as exc:
        stdio.sock.close()
        return HostError("no SSH client at stdin", stage="ssh", evidence=(str(exc),))
    found: list[InnError] = []
    loop = asyncio.get_running_loop()

    def hear() -> None:
        error = guest.explain()
        if error is not None:
            loop.remove_reader(guest.fileno())
            found.append(error)
            conn.disconnect(asyncssh.DISC_BY_APPLICATION, error.brief)

    loop.add_reader(guest.fileno(), hear)
    stirring = asyncio.create_task(_stir(conn))
    try:
        await conn.wait_closed()
    finally:
        stirring.cancel()
        loop.remove_reader(guest.fileno())
    return found[0] if found else None


async def _stir(conn: asyncssh.SSHServerConnection) -> None:
    """Send the client something to ignore, now and then (RFC 4253, 11.2).

    Not keep-alive requests: a client may be stopped for days and owes us no answer.
    """
    while True:
        await asyncio.sleep(_STIR_EVERY_S)
        conn.send_packet(MSG_IGNORE, String(b""))
