# SPDX-License-Identifier: Apache-2.0
"""A port of the host that leads into a guest for as long as a program wants it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import warnings
from functools import partial
from pathlib import Path
from typing import Self

from innkeeper.errors import HostError, UsageError
from innkeeper.keeper.relay import Relay, dial

_HIGHEST_PORT = 65535


class Forward:
    """A listener on the host whose connections lead to a port of a guest. `Machine.forward`.

    The guest needs no network, and its listeners on the loopback count. Both
    directions end on their own; at most 256 connections at a time. A connection
    that the guest refuses is closed without a byte.

    :ivar address: the host's address.
    :ivar port: the host's port.
    :ivar guest_port: the guest's.
    """

    def __init__(
        self, vsock_path: Path, guest_port: int, *, guest_address: str, address: str, port: int
    ) -> None:
        if not 0 < guest_port <= _HIGHEST_PORT or not 0 <= port <= _HIGHEST_PORT:
            raise UsageError(f"no ports: {guest_port}, {port}", stage="forward")
        self.address = address
        self.port = port
        self.guest_port = guest_port
        self._owner = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=_serve, args=(self._loop,), name=f"innkeeper forward {guest_port}", daemon=True
        )
        self._thread.start()
        self._server: asyncio.Server | None = None

        async def open_server() -> tuple[Relay, asyncio.Server]:
            relay = Relay(partial(dial, vsock_path))
            server = await relay.listen(
                guest_port, guest_address=guest_address, host_address=address, host_port=port
            )
            return relay, server

        try:
            opened = asyncio.run_coroutine_threadsafe(open_server(), self._loop).result()
            self._relay, self._server = opened
        except OSError as exc:
            raise HostError(
                f"cannot listen on {address}:{port}: {exc.strerror or exc}",
                stage="forward",
                fix="host_port=0 takes a free one",
            ) from exc
        finally:
            if self._server is None:
                self._end_thread()
        self.port = int(self._server.sockets[0].getsockname()[1])

    def __repr__(self) -> str:
        """From where, to where."""
        return f"<Forward {self.address}:{self.port} to port {self.guest_port} of the guest>"

    def close(self) -> None:
        """Close the listener and all its connections. Idempotent.

        In a forked child, nothing: the thread is the parent's.
        """
        server, self._server = self._server, None
        if server is None or os.getpid() != self._owner:
            return

        async def close_server() -> None:
            server.close()
            await self._relay.close()

        asyncio.run_coroutine_threadsafe(close_server(), self._loop).result()
        self._end_thread()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_server", None) is None or sys.is_finalizing():
            return
        warnings.warn(
            f"{self!r} was dropped and is closed; use `with` or close()",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )
        with contextlib.suppress(RuntimeError):
            self.close()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """The thread: the loop until it is stopped."""
    try:
        loop.run_forever()
    finally:
        loop.close()
