# SPDX-License-Identifier: Apache-2.0
"""One started QEMU with everything that belongs to it, and the stages of its start.

Everything acquired is pushed on an exit stack and released in reverse order,
whatever happened; an error in one step does not keep the next from running.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from innkeeper.errors import BootFailed, InnError
from innkeeper.hypervisors.qemu.drive import Qemu, start_qemu
from innkeeper.hypervisors.qemu.firmware import place_variables
from innkeeper.keeper.audience import Audience
from innkeeper.keeper.console import Console, open_copy
from innkeeper.keeper.disks import place_layer
from innkeeper.keeper.diskwatch import DiskWatch
from innkeeper.keeper.failure import Observation, explain_end, explain_timeout
from innkeeper.keeper.plan import RunPlan, guestlog_socket
from innkeeper.keeper.say import say
from innkeeper.model.network import GuestNetwork
from innkeeper.model.share import SharePlan, ShareReport
from innkeeper.registry.names import Claim
from innkeeper.system.sockets import listen_unix

if TYPE_CHECKING:
    from innkeeper.agent.announce import AnnounceServer, Failure
    from innkeeper.keeper.forward import Forwarder
    from innkeeper.keeper.network import NetworkSide
    from innkeeper.keeper.peers import Peers
    from innkeeper.keeper.shareside import ShareSide
    from innkeeper.switchboard.device import Switchboard

_T = TypeVar("_T")

# An agent that was restarted dials again within this time. A session that lost
# its connection waits 2 s for the reason, so all graces together are shorter.
_AGENT_GRACE_S = 1.0
# A kernel that panicked reboots at once (panic=-1), which ends QEMU; one that
# was told to stay is ended after this.
PANIC_GRACE_S = 0.5


class StopRequest(msgspec.Struct, frozen=True):
    """How a guest is to be ended.

    :ivar orderly: False kills at once: for a guest that has nothing to lose.
    :ivar timeout_s: time for the agent's rung; the others have a tenth each.
    :ivar reason: why, where that is no user's wish.
    """

    orderly: bool = True
    timeout_s: float = 10.0
    reason: str = ""


class StopAskedError(Exception):
    """A stop was asked for while the guest started."""


class _SilentError(Exception):
    """QEMU ended with code 1 and without a word, as it does in about 1 of 40 starts."""


class StartReport(msgspec.Struct, frozen=True):
    """How a start went.

    :ivar guest: measurements of the guest's own side, in seconds.
    :ivar warnings: what the agent could not do so far, and what stays changed on the host.
    :ivar network: the guest's network, if it has one.
    """

    guest: dict[str, float]
    warnings: tuple[str, ...]
    network: GuestNetwork | None


class Guest:
    """What belongs to one started QEMU. Made by :func:`start_guest`."""

    def __init__(self, qemu: Qemu, console: Console, announce: AnnounceServer) -> None:
        self.qemu = qemu
        self.console = console
        self.announce = announce
        self.exited = qemu.watch()
        self.paused = False
        # Done once QEMU stopped the CPUs because this host's disk is full.
        self.starved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        qemu.on_full = self._starve
        self.shares: ShareSide | None = None
        # Tasks that nobody waits for; held, so that they are not collected.
        self.background: set[asyncio.Future[None]] = set()

    async def pause(self) -> None:
        """Stop the guest's CPUs.

        :raise QMPError: QEMU refused.
        """
        await self.qemu.execute("stop")
        self.paused = True
        if self.shares is not None:
            self.shares.agent_pauses()

    async def resume(self) -> None:
        """Let the guest's CPUs go on, and tell its agent the time.

        :raise QMPError: QEMU refused.
        """
        await self.qemu.execute("cont")
        self.paused = False
        self.announce.say_clock()
        if self.shares is not None:
            self.shares.agent_answers()

    async def wait_starved(self) -> None:
        """Wait until QEMU stops the CPUs because this host's disk is full."""
        await self.starved
        self.starved = asyncio.get_running_loop().create_future()

    def _starve(self) -> None:
        if not self.starved.done():
            self.starved.set_result(None)

    def complaints(self) -> tuple[str, ...]:
        """What the agent could not do, as lines."""
        return tuple(f"{item.what}: {item.detail}" for item in self.announce.failures)

    async def observe(self, stage: str) -> Observation:
        """What can be said of the guest now; waits a moment for QEMU's last words."""
        if self.console.panic.done() and not self.exited.done():
            await asyncio.wait({self.exited}, timeout=PANIC_GRACE_S)
        ended = self.exited.done()
        return Observation(
            stage=stage,
            code=self.exited.result() if ended else None,
            shutdown=self.qemu.shutdown_reason,
            panic=self.console.panic.result() if self.console.panic.done() else None,
            stderr=self.qemu.stderr_lines(),
            console=self.console.evidence() + self.complaints(),
        )


class Start:
    """One start of a guest: the plan, the claimed name, who is told, who may stop it.

    :param on_stage: called with each stage that is over and its seconds.
    :param on_qemu: called with QEMU's pid.
    :param on_forwards: called with the ports that are led to by themselves, after changes.
    :param on_peers: called with what a new policy is to be told, None when that is over.
    :param on_shares: called with the shares' plan and what to tell of them, after changes.
    :param audience: who sees the console.
    :param disks: hears what the guest tells of its disks.
    """

    def __init__(
        self,
        plan: RunPlan,
        held: Claim,
        *,
        stop: asyncio.Future[StopRequest],
        on_stage: Callable[[str, float], None],
        on_qemu: Callable[[int], None],
        on_forwards: Callable[[dict[int, int]], None],
        on_peers: Callable[[Peers | None], None],
        on_shares: Callable[[SharePlan, ShareReport], None],
        audience: Audience,
        disks: DiskWatch,
    ) -> None:
        self._disks = disks
        self._plan = plan
        self._held = held
        self._stop = stop
        self._on_stage = on_stage
        self._on_qemu = on_qemu
        self._on_forwards = on_forwards
        self._on_peers = on_peers
        self._on_shares = on_shares
        self._audience = audience
        self._since = time.monotonic()

    async def run(self, outer: AsyncExitStack) -> tuple[Guest, StartReport]:
        """All stages; on success the guest's resources are on `outer`.

        :raise StopAskedError: a stop was asked for first.
        :raise InnError: a stage failed or took too long.
        """
        try:
            return await self._try(outer)
        except _SilentError:
            self._on_stage("retry: QEMU ended without a word", 0.0)
        try:
            return await self._try(outer)
        except _SilentError as exc:
            raise explain_end(Observation(stage="qemu", code=1)) from exc

    async def _try(self, outer: AsyncExitStack) -> tuple[Guest, StartReport]:
        plan = self._plan
        self._since = time.monotonic()
        async with AsyncExitStack() as stack:
            if plan.firmware is not None:
                place_variables(plan.firmware)
            if plan.layer is not None:
                place_layer(plan.layer)
            side = await self._open_network(stack)
            given = dict(side.descriptors) if side is not None else {}
            shares = self._open_shares(stack)
            if shares is not None:
                given |= shares.descriptors
            qemu = start_qemu(plan.qemu, given=given)
            stack.push_async_callback(qemu.end)
            self._on_qemu(qemu.child.pid)
            guest = self._open_channels(qemu, stack)
            guest.shares = shares
            await self._stage(guest, "qemu", _connect(guest))
            measured: dict[str, float] = {}
            network = side.without_guest() if side is not None else None
            notes = side.notes if side is not None else ()
            if plan.wait != "none":
                hello = await self._stage(guest, "boot", guest.announce.hello())
                notes += self._disks.found(hello.disks)
                measured = {
                    "kernel": hello.started_ns / 1e9,
                    "agent": (hello.ready_ns - hello.started_ns) / 1e9,
                }
                if side is not None:
                    configuring = side.configure(self._held.folder.agent, stack)
                    await self._stage(guest, "network", configuring)
                    network = side.network
                if plan.machine.notify:
                    from innkeeper.keeper.notify import open_notifier

                    await open_notifier(plan, guest.announce, self._tell, stack)
            if shares is not None:
                shares.agent_answers()
            outer.push_async_exit(stack.pop_all())
        return guest, StartReport(measured, guest.complaints() + notes, network)

    def _open_shares(self, stack: AsyncExitStack) -> ShareSide | None:
        plan = self._plan.shares
        if plan is None:
            return None
        from innkeeper.keeper.shareside import ShareSide

        side = ShareSide(plan, self._held.folder, on_change=self._on_shares, tell=self._tell)
        side.open(stack)
        return side

    async def _open_network(self, stack: AsyncExitStack) -> NetworkSide | None:
        if self._plan.machine.network == "none":
            return None
        from innkeeper.keeper.network import open_network

        return await open_network(self._plan, stack)

    def _open_channels(self, qemu: Qemu, stack: AsyncExitStack) -> Guest:
        """The ends of a started QEMU's channels, each closed by `stack`."""
        # Imported while QEMU starts: protobuf and the native module take 30 ms.
        from innkeeper.agent.announce import AnnounceServer
        from innkeeper.keeper.hosttime import HostTime
        from innkeeper.switchboard.device import Switchboard

        assert qemu.vsock is not None
        vhost, qemu.vsock = qemu.vsock, None
        folder = self._held.folder
        board = Switchboard(
            guest_cid=self._held.guest_cid,
            vhost=vhost,
            vsock_path=folder.vsock,
            agent_path=folder.agent,
        )
        stack.callback(board.close)
        forwarder = self._open_forwarder(stack)
        announce = AnnounceServer(
            listen_unix(folder.announce),
            grace_s=_AGENT_GRACE_S,
            on_failure=self._on_failure,
            on_ports=forwarder.update if forwarder is not None else None,
            on_disks=self._disks.filled if self._disks.any else None,
            relay_logs=self._open_guestlog(stack),
        )
        follow_time = HostTime(announce, self._plan.machine.timezone, tell=self._tell)
        stack.callback(follow_time.close)
        announce.start()
        stack.push_async_callback(announce.close)
        stack.callback(folder.announce.unlink, missing_ok=True)
        self._open_peers(board, announce, stack)
        plan = self._plan
        to_log = plan.logs is not None and plan.console_file is None
        path = str(plan.logs.console_log) if plan.logs and to_log else plan.console_file
        console = Console(qemu.console, open_copy(path, log=to_log), self._audience)
        console.start()
        stack.callback(console.close)
        return Guest(qemu, console, announce)

    def _open_peers(
        self, board: Switchboard, announce: AnnounceServer, stack: AsyncExitStack
    ) -> None:
        """Streams and rings with the host and the other guests of a machine's topology."""
        from innkeeper.keeper.peers import open_peers

        peers = open_peers(self._plan, self._held.guest_cid, board, announce, stack)
        stack.callback(self._on_peers, None)
        self._on_peers(peers)

    def _on_failure(self, failure: Failure) -> None:
        # Of a run, the starter tells: those until it was ready, or with an error.
        self._tell(f"the guest's agent: {failure.what}: {failure.detail}")

    def _tell(self, text: str) -> None:
        """A line for the log of a machine; a run's stderr is its user's."""
        if not self._plan.attached:
            say(text)

    def _open_forwarder(self, stack: AsyncExitStack) -> Forwarder | None:
        if self._plan.machine.forward == "none":
            return None
        from innkeeper.keeper.forward import Forwarder

        forwarder = Forwarder(self._held.folder.vsock, on_change=self._on_forwards)
        stack.push_async_callback(forwarder.close)
        return forwarder

    def _open_guestlog(self, stack: AsyncExitStack) -> bool:
        """Whether the guest's log is kept."""
        logs = self._plan.logs
        if logs is None:
            return False
        from innkeeper.keeper.guestlog import GuestLog, GuestLogServer

        path = guestlog_socket(self._held.folder)
        log = GuestLog(logs.guest_log)
        stack.push_async_callback(GuestLogServer(listen_unix(path), log).close)
        stack.callback(path.unlink, missing_ok=True)
        return True

    async def _stage(self, guest: Guest, name: str, work: Coroutine[Any, Any, _T]) -> _T:
        """The result of `work`, unless the guest ends, a stop is asked or the limit passes."""
        task = asyncio.ensure_future(work)
        left_s, limit_s = self._plan.limit_s(name, time.monotonic())
        try:
            waited: set[asyncio.Future[Any]] = {
                *(task, self._stop, guest.exited, guest.console.panic, guest.starved)
            }
            await asyncio.wait(waited, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and task.exception() is None:
                self._lap(name)
                return task.result()
            if self._stop.done():
                raise StopAskedError
            if guest.starved.done():
                raise self._disks.out_of_space()
            if task.done():
                # A channel that broke is most often the first sign of a QEMU that ended.
                await asyncio.wait({guest.exited}, timeout=PANIC_GRACE_S)
            seen = await guest.observe(name)
            if seen.code == 1 and not seen.stderr and guest.console.silent:
                raise _SilentError
            if seen.code is not None or seen.panic is not None:
                raise explain_end(seen)
            if task.done():
                raise _explain_broken(seen, task.exception())
            raise explain_timeout(seen, limit_s)
        finally:
            task.cancel()

    def _lap(self, name: str) -> None:
        now = time.monotonic()
        self._on_stage(name, round(now - self._since, 4))
        self._since = now


async def _connect(guest: Guest) -> None:
    await guest.qemu.connect()
    if guest.shares is not None:
        await guest.shares.ready()


def _explain_broken(seen: Observation, cause: BaseException | None) -> InnError:
    if isinstance(cause, InnError):
        return cause
    return BootFailed(
        f"stage {seen.stage} failed: {cause}", stage=seen.stage, evidence=seen.stderr + seen.console
    )
