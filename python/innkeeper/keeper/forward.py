# SPDX-License-Identifier: Apache-2.0
"""Ports of the guest on the host's loopback, for as long as a program of it listens there.

::

    host TCP <-> keeper <-> vsock <-> agent <-> guest TCP

The guest needs no network. Only ports from 1024 on are led to: a guest must
not take the place of the host's own services.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from innkeeper.agent.ports import ListeningPort
from innkeeper.keeper.relay import Relay, dial
from innkeeper.keeper.say import say
from innkeeper.system.sockets import loopback_addresses

_LOWEST_PORT = 1024
_HIGHEST_PORT = 65535
# How far from the guest's own number a free port of the host is sought.
_TRIES = 100
_FORWARDS_LIMIT = 128
# A guest that opens and closes ports all the time keeps the host this little busy.
_PACE_S = 0.2


@dataclass
class _Forward:
    """One port of the guest, and the port of the host that leads there."""

    address: str
    host_port: int
    server: asyncio.Server | None


def choose(ports: tuple[ListeningPort, ...]) -> dict[int, str]:
    """The ports to lead to, each with the address to use in the guest."""
    chosen: dict[int, str] = {}
    for port in sorted(ports, key=lambda item: (ip_address(item.address).version, item)):
        if port.protocol == "tcp" and port.port >= _LOWEST_PORT:
            chosen.setdefault(port.port, port.address)
    return dict(sorted(chosen.items())[:_FORWARDS_LIMIT])


class Forwarder:
    """Follows what is listened on in one guest. Close it.

    :param on_change: called with `ports` after every change.
    """

    def __init__(
        self,
        vsock_path: Path,
        *,
        tell: Callable[[str], None] = say,
        on_change: Callable[[dict[int, int]], None] = lambda _ports: None,
    ) -> None:
        self._relay = Relay(partial(dial, vsock_path))
        self._tell = tell
        self._on_change = on_change
        self._told: dict[int, int] = {}
        # A program's "localhost" is either of the two.
        self._addresses = loopback_addresses()
        self._wanted: dict[int, str] = {}
        self._changed = asyncio.Event()
        self._forwards: dict[int, _Forward] = {}
        self._following = asyncio.get_running_loop().create_task(self._follow())

    @property
    def ports(self) -> dict[int, int]:
        """Ports of the guest with those of the host that lead there."""
        return {port: item.host_port for port, item in self._forwards.items() if item.server}

    def update(self, ports: tuple[ListeningPort, ...]) -> None:
        """This is listened on now, and nothing else."""
        self._wanted = choose(ports)
        self._changed.set()

    async def close(self) -> None:
        """Close all listeners and connections. Idempotent."""
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        for port in list(self._forwards):
            self._drop(port)
        await self._relay.close()

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted = self._wanted
            for port, item in list(self._forwards.items()):
                if wanted.get(port) != item.address:
                    self._drop(port)
            for port, address in wanted.items():
                if port not in self._forwards:
                    self._forwards[port] = await self._listen(port, address)
            if self.ports != self._told:
                self._told = self.ports
                self._on_change(self._told)
            await asyncio.sleep(_PACE_S)

    async def _listen(self, port: int, address: str) -> _Forward:
        why = "none is free"
        for host_port in range(port, min(port + _TRIES, _HIGHEST_PORT) + 1):
            try:
                server = await self._relay.listen(
                    port, guest_address=address, host_address=self._addresses, host_port=host_port
                )
            except OSError as exc:
                if exc.errno in (errno.EADDRINUSE, errno.EACCES):
                    continue
                why = exc.strerror or str(exc)
                break
            taken = "" if host_port == port else f" ({port} is taken)"
            self._tell(f"port {port} of the guest is {self._addresses[0]}:{host_port} here{taken}")
            return _Forward(address, host_port, server)
        self._tell(f"port {port} of the guest has no port here: {why}")
        return _Forward(address, 0, None)

    def _drop(self, port: int) -> None:
        item = self._forwards.pop(port)
        if item.server is not None:
            item.server.close()
            self._tell(f"port {port} of the guest is closed")
