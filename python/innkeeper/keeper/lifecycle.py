# SPDX-License-Identifier: Apache-2.0
"""The life of one guest.

::

    starting ──qemu──boot──network──> running ──stop asked──> ended (stopped)
        │  (a stage fails,               │
        │   its limit passes)            └──guest powers off, panics, is killed──> ended
        └──> ended (failed)

Everything acquired is pushed on one exit stack and released in reverse order,
whatever happened; an error in one step does not keep the next from running.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from innkeeper.agent.announce import AnnounceServer
from innkeeper.errors import BootFailed, InnError
from innkeeper.hypervisors.qemu.drive import Qemu, start_qemu
from innkeeper.keeper.console import Console, open_copy
from innkeeper.keeper.control import Control
from innkeeper.keeper.failure import (
    Observation,
    explain_agent_loss,
    explain_end,
    explain_timeout,
)
from innkeeper.keeper.messages import Ended, Failed, Ready, Reason, StageDone
from innkeeper.keeper.network import configure_user_network
from innkeeper.keeper.plan import RunPlan
from innkeeper.registry.names import Claim, GuestState, claim
from innkeeper.switchboard.device import Switchboard
from innkeeper.system.host import memory_pss_bytes
from innkeeper.system.sockets import listen_unix

_T = TypeVar("_T")

# An agent that was restarted dials again within this time. A session that lost
# its connection waits 2 s for the reason, so all graces together are shorter.
_AGENT_GRACE_S = 1.0
# A kernel that panicked reboots at once (panic=-1), which ends QEMU; one that
# was told to stay is ended after this.
_PANIC_GRACE_S = 0.5


class _Stopped(Exception):
    """The starter asked for the end."""


class _Silent(Exception):
    """QEMU ended with code 1 and without a word, as it does in about 1 of 40 starts."""


class Guest:
    """What belongs to one started QEMU. Made by :func:`_start`."""

    def __init__(self, qemu: Qemu, console: Console, announce: AnnounceServer) -> None:
        self.qemu = qemu
        self.console = console
        self.announce = announce
        self.exited = qemu.watch()

    def complaints(self) -> tuple[str, ...]:
        """What the agent could not do, as lines."""
        return tuple(f"{item.what}: {item.detail}" for item in self.announce.failures)

    async def observe(self, stage: str) -> Observation:
        """What can be said of the guest now; waits a moment for QEMU's last words."""
        if self.console.panic.done() and not self.exited.done():
            await asyncio.wait({self.exited}, timeout=_PANIC_GRACE_S)
        ended = self.exited.done()
        return Observation(
            stage=stage,
            code=self.exited.result() if ended else None,
            shutdown=self.qemu.shutdown_reason,
            panic=self.console.panic.result() if self.console.panic.done() else None,
            stderr=self.qemu.stderr_lines(),
            console=self.console.evidence() + self.complaints(),
        )


async def keep(plan: RunPlan, control: Control) -> None:
    """Start the guest of `plan`, keep it until it ends or a stop is asked, tear down.

    Says everything it does on `control`; raises nothing that a guest, a host
    or a user can cause.
    """
    reason: Reason = "failed"
    peak_kib = 0
    try:
        async with AsyncExitStack() as stack:
            held = claim(plan.layout, plan.machine.name)
            stack.callback(held.release)
            guest = await _start_with_retry(plan, control, held, stack)
            peak_kib = (memory_pss_bytes(os.getpid()) or 0) // 1024
            reason = await _run(plan, control, guest)
    except _Stopped:
        reason = "stopped"
    except InnError as error:
        control.send(Failed(error.as_dict()))
    control.send(Ended(reason, keeper_peak_kib=peak_kib))


async def _start_with_retry(
    plan: RunPlan, control: Control, held: Claim, outer: AsyncExitStack
) -> Guest:
    try:
        return await _start(plan, control, held, outer)
    except _Silent:
        control.send(StageDone("retry: QEMU ended without a word", 0.0))
    try:
        return await _start(plan, control, held, outer)
    except _Silent as exc:
        raise explain_end(Observation(stage="qemu", code=1)) from exc


async def _start(plan: RunPlan, control: Control, held: Claim, outer: AsyncExitStack) -> Guest:
    """One try at all stages. On success its resources move to `outer`."""
    clock = _Stopwatch(control)
    async with AsyncExitStack() as stack:
        qemu = start_qemu(plan.qemu)
        stack.push_async_callback(qemu.end)
        guest = _open_channels(plan, held, qemu, stack)
        await _stage(plan, control, guest, "qemu", qemu.connect())
        held.write_state(_state(plan, held, qemu, "starting"))
        clock.lap("qemu")
        measured: dict[str, float] = {}
        if plan.wait != "none":
            hello = await _stage(plan, control, guest, "boot", guest.announce.hello())
            measured = {
                "kernel": hello.started_ns / 1e9,
                "agent": (hello.ready_ns - hello.started_ns) / 1e9,
            }
            clock.lap("boot")
            if plan.machine.network == "user":
                configuring = configure_user_network(held.folder.agent)
                await _stage(plan, control, guest, "network", configuring)
                clock.lap("network")
        held.write_state(_state(plan, held, qemu, "running"))
        control.send(Ready(name=plan.machine.name, guest=measured, warnings=guest.complaints()))
        outer.push_async_exit(stack.pop_all())
    return guest


def _open_channels(plan: RunPlan, held: Claim, qemu: Qemu, stack: AsyncExitStack) -> Guest:
    """The ends of a started QEMU's channels, each closed by `stack`."""
    assert qemu.vsock is not None
    vhost, qemu.vsock = qemu.vsock, None
    board = Switchboard(
        guest_cid=held.guest_cid,
        vhost=vhost,
        vsock_path=held.folder.vsock,
        agent_path=held.folder.agent,
    )
    stack.callback(board.close)
    announce = AnnounceServer(listen_unix(held.folder.announce), grace_s=_AGENT_GRACE_S)
    announce.start()
    stack.push_async_callback(announce.close)
    stack.callback(held.folder.announce.unlink, missing_ok=True)
    console = Console(qemu.console, open_copy(plan.console_file))
    console.start()
    stack.callback(console.close)
    return Guest(qemu, console, announce)


async def _stage(
    plan: RunPlan, control: Control, guest: Guest, name: str, work: Coroutine[Any, Any, _T]
) -> _T:
    """The result of `work`, unless the guest ends, a stop is asked or the limit passes first."""
    task = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(control.stop.wait())
    left_s, limit_s = plan.limit_s(name, time.monotonic())
    try:
        await asyncio.wait(
            {task, stop, guest.exited, guest.console.panic},
            timeout=left_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if task.done() and task.exception() is None:
            return task.result()
        if stop.done():
            raise _Stopped
        if task.done():
            # A channel that broke is most often the first sign of a QEMU that ended.
            await asyncio.wait({guest.exited}, timeout=_PANIC_GRACE_S)
        seen = await guest.observe(name)
        if seen.code == 1 and not seen.stderr and guest.console.silent:
            raise _Silent
        if seen.code is not None or seen.panic is not None:
            raise explain_end(seen)
        if task.done():
            raise _explain_broken(seen, task.exception())
        raise explain_timeout(seen, limit_s)
    finally:
        task.cancel()
        stop.cancel()


async def _run(plan: RunPlan, control: Control, guest: Guest) -> Reason:
    """Keep a running guest; returns why it ended where that was wanted.

    :raise GuestLost: it ended otherwise.
    """
    stop = asyncio.ensure_future(control.stop.wait())
    try:
        waited: set[asyncio.Future[Any]] = {
            stop,
            guest.exited,
            guest.console.panic,
            guest.announce.lost,
        }
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            return "stopped"
        # An agent that goes away is most often the first sign of a guest that ends.
        await asyncio.wait({guest.exited}, timeout=_PANIC_GRACE_S)
    finally:
        stop.cancel()
    seen = await guest.observe("run")
    if plan.wait == "none" and seen.panic is None and seen.code == 0:
        return "powered-off" if seen.shutdown == "guest-shutdown" else "rebooted"
    if seen.code is None and seen.panic is None:
        raise explain_agent_loss(seen)
    raise explain_end(seen)


def _explain_broken(seen: Observation, cause: BaseException | None) -> InnError:
    if isinstance(cause, InnError):
        return cause
    return BootFailed(
        f"stage {seen.stage} failed: {cause}", stage=seen.stage, evidence=seen.stderr + seen.console
    )


def _state(plan: RunPlan, held: Claim, qemu: Qemu, state: str) -> GuestState:
    return GuestState(
        name=plan.machine.name,
        state=state,
        keeper_pid=os.getpid(),
        guest_cid=held.guest_cid,
        qemu_pid=qemu.child.pid,
    )


class _Stopwatch:
    """Says on the control channel how long each stage took."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._since = time.monotonic()

    def lap(self, name: str) -> None:
        """The stage `name` is over."""
        now = time.monotonic()
        self._control.send(StageDone(name, round(now - self._since, 4)))
        self._since = now
