# SPDX-License-Identifier: Apache-2.0
"""Rings of host programs: of one guest, or the same ring for several guests.

Each keeper knows the host's programs as domain 0, for its own guest alone. A daemon
that serves several guests has its ring in each keeper; :class:`HostRings` makes one of
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from innkeeper.errors import GuestError
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import read_record
from innkeeper.rings import Message, Rings
from innkeeper.system.pump import Poller

if TYPE_CHECKING:
    from innkeeper.api.machine import Machine


def open_rings(layout: Layout, name: str) -> Rings:
    """A connection of this program, domain 0, to the rings of a guest.

    :raise GuestError: it does not run, or has no rings.
    """
    try:
        return Rings.open(layout.guest(name).rings)
    except OSError as failed:
        state = read_record(layout, name).state
        raise GuestError(
            f"the machine {name!r} ({state}) has no rings: {failed.strerror}",
            stage="rings",
            fix=f"inn start {name}; a guest with a CID above 32751 has none",
        ) from failed


class HostRings:
    """The host's end of the rings of several guests. `Machine.rings` gives one guest's.

    ::

        with HostRings() as rings:
            for vm in innkeeper.Machine.list():
                rings.add(vm)
            rings.register(80)
            for message in rings.messages(80):
                rings.send(80, message.sender, b"thank you")

    A guest that ends goes out of it by itself; one that starts is added.
    """

    def __init__(self) -> None:
        self._guests: dict[int, Rings] = {}
        self._registered: dict[int, int] = {}
        self._poller = Poller()

    @property
    def guests(self) -> tuple[int, ...]:
        """The domains of the guests that are in it."""
        return tuple(sorted(self._guests))

    def add(self, machine: Machine) -> int:
        """Take in a running guest, with the rings that are registered here; returns its domain.

        :raise GuestError: it does not run, or has no rings.
        """
        rings, domain = machine.rings(), machine.record.guest_cid or 0
        try:
            for port, size_bytes in self._registered.items():
                rings.register(port, domain, size_bytes=size_bytes)
        except BaseException:
            rings.close()
            raise
        self.remove(domain)
        self._guests[domain] = rings
        return domain

    def remove(self, domain: int) -> None:
        """Let a guest go, with the rings there."""
        if domain in self._guests:
            self._guests.pop(domain).close()

    def register(self, port: int, *, size_bytes: int = 256 << 10) -> None:
        """Make a ring for each guest; what one sends keeps no other out.

        :raise OSError: in the words of the first guest where it could not be; it is nowhere then.
        """
        done: list[int] = []
        try:
            for domain, rings in self._guests.items():
                rings.register(port, domain, size_bytes=size_bytes)
                done.append(domain)
        except OSError:
            for domain in done:
                self._guests[domain].unregister(port, domain)
            raise
        self._registered[port] = size_bytes

    def unregister(self, port: int) -> None:
        """Take the ring away everywhere."""
        del self._registered[port]
        for domain, rings in self._guests.items():
            rings.unregister(port, domain)

    def send(
        self, source_port: int, to: tuple[int, int], data: bytes, *, timeout_s: float | None = None
    ) -> int:
        """Send to a guest's ring, as :meth:`Rings.send`.

        :param to: (the guest's domain, its port).
        :raise ProcessLookupError: it is not in here.
        """
        rings = self._guests.get(to[0])
        if rings is None:
            raise ProcessLookupError(3, f"no guest has the domain {to[0]}")
        return rings.send(source_port, to, data, timeout_s=timeout_s)

    def messages(self, port: int, *, timeout_s: float | None = None) -> Iterator[Message]:
        """The messages of all guests to a port, as they come; a guest's own in their order.

        :raise TimeoutError: none came from anybody for so long.
        """
        while True:
            found = False
            for domain, rings in list(self._guests.items()):
                try:
                    rings.events()
                    batch = rings.receive(port, domain)
                except (ConnectionError, FileNotFoundError):
                    # The guest ended, or its ring here with a new policy.
                    self.remove(domain)
                    continue
                found = found or bool(batch)
                yield from batch
            if found:
                continue
            ready = self._poller.wait(
                read=[one.fileno() for one in self._guests.values()], write=[], timeout_s=timeout_s
            )
            if not ready:
                raise TimeoutError(f"no message came to port {port} in time")

    def close(self) -> None:
        """Let all guests go. Idempotent."""
        for domain in self.guests:
            self.remove(domain)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
