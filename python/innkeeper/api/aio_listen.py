# SPDX-License-Identifier: Apache-2.0
"""The async twin of `GuestListener`."""

from __future__ import annotations

import asyncio

from innkeeper.api.listen import GuestListener
from innkeeper.system.sockets import StreamSocket


class AsyncGuestListener:
    """What a guest's connections to a port of CID 2 come to. `AsyncMachine.listen`.

    :ivar sync: the listener behind it.
    :ivar port: the vsock port.
    """

    def __init__(self, listener: GuestListener) -> None:
        self.sync = listener
        self.port = listener.port
        listener.sock.settimeout(0.0)

    async def accept(self) -> StreamSocket:
        """The guest's next connection, which does not block; the caller closes it.

        `asyncio.open_unix_connection(sock=...)` makes streams of it.
        """
        sock, _ = await asyncio.get_running_loop().sock_accept(self.sync.sock)
        return sock

    async def close(self) -> None:
        """As :meth:`GuestListener.close`. Idempotent."""
        self.sync.close()
