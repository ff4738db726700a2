# SPDX-License-Identifier: Apache-2.0
"""The host side of a tap network, for one life of a guest.

Opened before QEMU and closed after it: interface, nftables table, dnsmasq,
published ports. What the keeper cannot remove because it was killed, the
kernel or the next keeper removes (`innkeeper.networks.tap`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

from innkeeper.errors import HostError
from innkeeper.keeper.plan import RunPlan
from innkeeper.keeper.publish import Publisher
from innkeeper.model.network import GuestNetwork
from innkeeper.networks.tap import (
    claim_tap,
    remove_table,
    set_up_tap,
    start_dnsmasq,
    sweep_tables,
)
from innkeeper.system.files import close_descriptor
from innkeeper.system.network import open_vhost_net
from innkeeper.system.process import Child

_DNSMASQ_LIMIT_S = 10.0
_DNSMASQ_GRACE_S = 2.0
_LINES = 8
# A server that ends so often will not do better.
_STARTS_LIMIT = 10
_AGAIN_S = 0.5
_SAID_LIMIT = 8192


class TapSide:
    """What QEMU and the guest need to know of the tap network.

    :ivar fd: the tap device.
    :ivar notes: what stays changed on the host.
    """

    def __init__(self, fd: int, network: GuestNetwork, notes: tuple[str, ...]) -> None:
        self.fd = fd
        self.network = network
        self.notes = notes

    @classmethod
    async def open(
        cls, plan: RunPlan, stack: AsyncExitStack, *, tell: Callable[[str], None]
    ) -> TapSide:
        """Make all of it; `stack` removes it.

        :param tell: told when the guest's name server ends.
        :raise HostError: something cannot be made, or a published port is taken.
        """
        assert plan.link is not None
        sweep_tables()
        tap, tap_plan = claim_tap(plan.tap_pools, identity=plan.link.mac)
        stack.callback(tap.close)
        stack.callback(remove_table, tap_plan.table)
        notes = set_up_tap(tap_plan)
        publisher = Publisher(plan.machine.ports, tap_plan.guest)
        stack.push_async_callback(publisher.close)
        await publisher.start()
        start = partial(start_dnsmasq, tap_plan, mac=plan.link.mac, hostname=plan.machine.name)
        server = NameServer(start, tell=tell)
        stack.callback(server.close)
        await server.started()
        return cls(
            tap.fileno(),
            GuestNetwork(
                kind="tap",
                mac=plan.link.mac,
                address=tap_plan.guest,
                netmask=tap_plan.netmask,
                gateway=tap_plan.host,
                interface=tap_plan.tap,
            ),
            notes,
        )


def open_vhost(stack: AsyncExitStack) -> int:
    """A descriptor of /dev/vhost-net, closed by `stack`.

    :raise HostError: it opened when the plan was made, and does not any more.
    """
    fd = open_vhost_net()
    if fd is None:
        raise HostError("/dev/vhost-net does not open any more", stage="network", fix="try again")
    stack.callback(close_descriptor, fd)
    return fd


class NameServer:
    """A guest's dnsmasq: waits until it serves, keeps its last words, starts it again.

    :param start: starts it.
    """

    def __init__(self, start: Callable[[], Child], *, tell: Callable[[str], None]) -> None:
        self._start = start
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._serving: asyncio.Future[None] = self._loop.create_future()
        self._said = bytearray()
        self._starts_left = _STARTS_LIMIT
        self._again: asyncio.TimerHandle | None = None
        self._child = self._open()

    async def started(self) -> None:
        """Wait until it has bound its ports.

        :raise HostError: it ended, or took too long; with its last words.
        """
        done, _ = await asyncio.wait({self._serving}, timeout=_DNSMASQ_LIMIT_S)
        if done and self._child.poll() is None:
            return
        raise HostError(
            "dnsmasq does not serve the guest's network",
            stage="network",
            evidence=tuple(bytes(self._said).decode("utf-8", "replace").splitlines()[-_LINES:]),
            fix="look whether something else has port 53 of all addresses: ss -lnup",
        )

    def close(self) -> None:
        """End it. Idempotent."""
        if self._again is not None:
            self._again.cancel()
        self._stop_reading()
        self._serving.cancel()
        self._child.end(_DNSMASQ_GRACE_S)

    def _open(self) -> Child:
        child = self._start()
        self._loop.add_reader(child.stderr_fd, self._on_stderr)
        return child

    def _stop_reading(self) -> None:
        if self._child.stderr_fd >= 0:
            self._loop.remove_reader(self._child.stderr_fd)

    def _on_stderr(self) -> None:
        data = self._child.read_stderr()
        if data is None:
            return
        if not data:
            self._stop_reading()
            self._child.end()
            self._on_end()
        elif not self._serving.done():
            # It writes a line in pieces.
            self._said = (self._said + data)[-_SAID_LIMIT:]
            # Said once its sockets are bound.
            if b": started, version " in self._said:
                self._serving.set_result(None)

    def _on_end(self) -> None:
        if not self._serving.done():
            self._serving.set_result(None)
            return
        self._starts_left -= 1
        if self._starts_left <= 0:
            self._tell("dnsmasq ended again: the guest has no name server any more")
            return
        self._tell("dnsmasq ended, and is started again")
        self._again = self._loop.call_later(_AGAIN_S, self._reopen)

    def _reopen(self) -> None:
        try:
            self._child = self._open()
        except HostError as error:
            self._tell(f"the guest has no name server any more: {error.brief}")
