# SPDX-License-Identifier: Apache-2.0
"""A port of the host, as one guest sees it, where a program waits for that guest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from innkeeper.errors import TimedOut, UsageError
from innkeeper.model.hostservice import check_port
from innkeeper.registry.layout import Layout
from innkeeper.registry.topologies import topology_of
from innkeeper.system.ports import target_listens
from innkeeper.system.sockets import StreamSocket, listen_unix, wait_readable

_STAGE = "listen"


class GuestListener:
    """What a guest's connections to a port of CID 2 come to. `Machine.listen`.

    Each accepted socket is one stream of this guest, and of no other. It is there
    as long as the guest runs: one that is started again has new doors.

    :ivar port: the vsock port.
    :ivar sock: what listens; for `select` and its like.
    """

    def __init__(self, layout: Layout, name: str, port: int) -> None:
        check_port(port)
        topology = topology_of(layout, name)
        service = None if topology is None else topology.host_services().get(port)
        if service is not None:
            raise UsageError(
                f"port {port} of the host is the service {service.name!r} of the topology,"
                f" and leads to {service.target}",
                stage=_STAGE,
                fix="listen there, or on another port",
            )
        self.port = port
        self._owner = os.getpid()
        self._path: Path | None = None
        path = layout.guest(name).service(port)
        if path.exists() and not target_listens(f"unix:{path}"):
            # Left by a program that was killed.
            path.unlink(missing_ok=True)
        self.sock = listen_unix(path)
        self._path = path

    def __repr__(self) -> str:
        """Its port."""
        return f"<GuestListener port {self.port}>"

    def accept(self, timeout_s: float | None = None) -> StreamSocket:
        """Wait for the guest's next connection; the caller closes it.

        :raise TimedOut: none came in time.
        :raise OSError: this is closed.
        """
        if not wait_readable(self.sock, timeout_s):
            raise TimedOut(
                f"the guest did not connect to port {self.port} within {timeout_s:g} s",
                stage=_STAGE,
            )
        return self.sock.accept()[0]

    def close(self) -> None:
        """Take no more connections; those that were accepted go on. Idempotent."""
        self.sock.close()
        path, self._path = self._path, None
        if path is not None and os.getpid() == self._owner:
            path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
