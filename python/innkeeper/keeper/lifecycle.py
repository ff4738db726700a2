# SPDX-License-Identifier: Apache-2.0
"""The life of a machine's guest, from the plan to the last record.

::

    created ─> starting ──qemu──boot──network──> running <──> paused
                  │  (a stage fails,              │   │
                  │   its limit passes)           │   └─stop asked─> stopping ─> stopped
                  v                               v
               failed <──── panic, killed, agent gone, powered off unasked
                  └──restart policy, after a delay──> starting

The state on disk is written at every arrow, before anybody is told.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from innkeeper.errors import InnError, UsageError
from innkeeper.hypervisors.qemu.balloon import bounded_size
from innkeeper.keeper.audience import Audience
from innkeeper.keeper.control import Control
from innkeeper.keeper.disks import hold_disks
from innkeeper.keeper.diskwatch import DiskWatch, describe_space, feed, planned_disks
from innkeeper.keeper.door import Door
from innkeeper.keeper.failure import explain_agent_loss, explain_end
from innkeeper.keeper.folder import stop_when_removed
from innkeeper.keeper.guest import PANIC_GRACE_S, Guest, Start, StopAskedError, StopRequest
from innkeeper.keeper.ledger import Ledger
from innkeeper.keeper.logs import KeeperLog
from innkeeper.keeper.messages import (
    Answer,
    ApplyPolicy,
    Ended,
    Failed,
    HoldStill,
    MemoryChanged,
    Operation,
    Pause,
    Ready,
    Reason,
    ResizeDisk,
    Resume,
    SetMemory,
    ShareOperation,
    StageDone,
    StateChanged,
    Stop,
)
from innkeeper.keeper.operations import change_memory, change_shares
from innkeeper.keeper.plan import RunPlan, with_shares
from innkeeper.keeper.policy import STABLE_S, restart_delay_s
from innkeeper.keeper.remains import sweep_networks
from innkeeper.keeper.still import Stillness
from innkeeper.keeper.stop import climb
from innkeeper.model.disk import DiskState
from innkeeper.model.record import LIVE_STATES, Record, State
from innkeeper.model.share import SharePlan, ShareReport
from innkeeper.registry.names import Claim, claim
from innkeeper.system.descriptors import silence_output

if TYPE_CHECKING:
    from innkeeper.keeper.peers import Peers
from innkeeper.system.host import memory_pss_bytes
from innkeeper.system.sockets import listen_unix


async def keep(plan: RunPlan, control: Control) -> None:
    """Start the guest of `plan`, keep it until it ends for good, tear down.

    Says everything it does on `control`; raises nothing that a guest, a host
    or a user can cause.
    """
    reason: Reason = "failed"
    lifecycle: Lifecycle | None = None
    if plan.logs is not None:
        control.journal = KeeperLog(plan.logs.keeper_log).say
    else:
        # Its terminal or pipe is a stranger's from then on, who may wait for its end.
        control.on_detach = silence_output
    try:
        async with AsyncExitStack() as stack:
            held = claim(
                plan.layout,
                plan.machine.name,
                machine=plan.record is not None,
                cid=plan.machine.cid,
            )
            stack.callback(held.release)
            if held.swept:
                sweep_networks()
            if plan.image.root is not None:
                from innkeeper.images.bundles import hold_bundle

                held_bundle = hold_bundle(
                    plan.layout.images, plan.image.name, plan.image.root.bundle
                )
                stack.callback(held_bundle.release)
            hold_disks(plan.layout, plan.disks, stack)
            stack.enter_context(stop_when_removed(held, control))
            lifecycle = Lifecycle(plan, control, held)
            stack.callback(lifecycle.close_ledger)
            await lifecycle.open_door()
            reason = await lifecycle.run()
    except InnError as error:
        control.send(Failed(error.as_dict()))
    if lifecycle is not None:
        # After the name was given up: whoever asked for the stop may take it now.
        await lifecycle.close_door()
    control.send(Ended(reason, keeper_peak_kib=lifecycle.peak_kib if lifecycle else 0))


class Lifecycle:
    """One machine's guest under one keeper, through all its restarts."""

    def __init__(self, plan: RunPlan, control: Control, held: Claim) -> None:
        self.peak_kib = 0
        self._plan = plan
        self._control = control
        self._held = held
        self._guest: Guest | None = None
        self._peers: Peers | None = None
        self._door: Door | None = None
        self._audience = Audience()
        self._was_ready = False
        self._ends_in_a_row = 0
        self._ended = asyncio.Event()
        self._still = Stillness(plan.machine, self._on_still)
        record = msgspec.structs.replace(
            plan.record or Record(name=plan.machine.name, state="created", changed_at=time.time()),
            keeper_pid=os.getpid(),
            guest_cid=held.guest_cid,
            error=None,
            disks=tuple(planned_disks(plan).values()),
        )
        self._ledger = Ledger(plan.layout, held, record, stays=plan.record is not None)

    @property
    def _record(self) -> Record:
        return self._ledger.record

    async def open_door(self) -> None:
        """Serve `keeper.sock`."""
        self._door = Door(
            listen_unix(self._held.folder.keeper),
            carry_out=self._carry_out,
            let_go=lambda: self._still.let_go(self._guest),
            present=self._present,
            audience=self._audience,
        )
        await self._door.open()

    def close_ledger(self) -> None:
        """Bring the last record to the disk."""
        self._ledger.close()

    async def close_door(self) -> None:
        """Answer those who asked for the end, and stop serving."""
        self._ended.set()
        if self._door is not None:
            await self._door.close()

    async def run(self) -> Reason:
        """All lives of the guest, until one is not followed by another.

        :raise InnError: the last one failed.
        """
        while True:
            begun = time.monotonic()
            failure: InnError | None = None
            reason: Reason = "failed"
            try:
                reason = await self._live()
            except InnError as error:
                failure = error
                self._enter("failed", reason=error.brief, error=error.as_dict(), qemu_pid=None)
            if time.monotonic() - begun > STABLE_S:
                self._ends_in_a_row = 0
            if reason != "stopped" and await self._comes_again(failure):
                continue
            if self._control.stop.done() and reason != "stopped":
                # Stopped between two lives, when there was nothing to end.
                self._enter("stopped")
                return "stopped"
            if failure is not None:
                raise failure
            return reason

    async def _live(self) -> Reason:
        """One life: start, run, end.

        :raise InnError: it failed.
        """
        # A life that could not be recorded does not begin; one that began goes on.
        must = not self._was_ready
        starts = self._record.starts + 1
        self._enter("starting", must=must, starts=starts, stages={}, guest={}, rung=None)
        stop = self._control.stop
        disks = DiskWatch(self._plan, note=self._note_disks, tell=self._tell_space)
        try:
            async with AsyncExitStack() as stack:
                start = Start(
                    self._plan,
                    self._held,
                    stop=stop,
                    on_stage=self._on_stage,
                    on_qemu=lambda pid: self._ledger.write(qemu_pid=pid),
                    on_forwards=lambda ports: self._ledger.write(forwards=ports),
                    on_peers=self._set_peers,
                    on_shares=self._note_shares,
                    audience=self._audience,
                    disks=disks,
                )
                guest, report = await start.run(stack)
                self._guest = guest
                self._was_ready = True
                self.peak_kib = (memory_pss_bytes(os.getpid()) or 0) // 1024
                guest.qemu.on_memory = self._note_memory
                feeding = feed(guest, disks, present=self._present, enter=self._enter)
                stack.callback(asyncio.ensure_future(feeding).cancel)
                self._enter(
                    "running",
                    guest=report.guest,
                    network=report.network,
                    memory_bytes=self._plan.machine.memory_bytes,
                )
                self._control.send(
                    Ready(self._plan.machine.name, report.guest, warnings=report.warnings)
                )
                reason, told = await self._hold(guest)
        except StopAskedError:
            self._enter("stopped", reason="stopped while it started", qemu_pid=None)
            return "stopped"
        finally:
            self._guest = None
        self._enter("stopped", reason=told, qemu_pid=None)
        return reason

    async def _hold(self, guest: Guest) -> tuple[Reason, str]:
        """Keep a running guest; returns why it ended where that was wanted, and in words.

        :raise GuestLost: it ended otherwise.
        """
        stop = self._control.stop
        waited: set[asyncio.Future[Any]] = {
            *(stop, guest.exited),
            *(guest.console.panic, guest.announce.lost),
        }
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            return "stopped", await self._stop(guest, stop.result())
        # An agent that goes away is most often the first sign of a guest that ends.
        await asyncio.wait({guest.exited}, timeout=PANIC_GRACE_S)
        seen = await guest.observe("run")
        orderly = seen.panic is None and seen.code == 0
        if orderly and (self._plan.wait == "none" or not self._plan.attached):
            if seen.shutdown == "guest-shutdown":
                return "powered-off", "the guest powered off"
            return "rebooted", "the guest rebooted"
        if seen.code is None and seen.panic is None:
            raise explain_agent_loss(seen)
        raise explain_end(seen)

    async def _stop(self, guest: Guest, request: StopRequest) -> str:
        """Climb the ladder; returns how the guest ended, where that was no rung."""
        self._enter("stopping")
        rung, fault = await climb(guest, request)
        if fault is not None:
            self._ledger.write(error=fault.as_dict())
        self._ledger.write(rung=rung)
        return fault.brief if fault is not None else request.reason

    async def _comes_again(self, failure: InnError | None) -> bool:
        """Wait as the restart policy says; False for no further life."""
        if not self._was_ready:
            # The first start failed: its starter hears why, and decides.
            return False
        self._ends_in_a_row += 1
        delay_s = restart_delay_s(
            self._plan.machine.restart, failed=failure is not None, ends=self._ends_in_a_row
        )
        if delay_s is None:
            return False
        await asyncio.wait({self._control.stop}, timeout=delay_s)
        if self._control.stop.done():
            return False
        self._ledger.write(restarts=self._record.restarts + 1)
        self._audience.tell("the guest starts again")
        return True

    async def _carry_out(self, operation: Operation) -> Answer | None:
        if isinstance(operation, Stop):
            orderly = operation.timeout_s > 0
            request = StopRequest(orderly=orderly, timeout_s=operation.timeout_s)
            self._control.ask_stop(request)
            await self._ended.wait()
            return None
        if isinstance(operation, ApplyPolicy):
            # A guest that has no links yet reads the policy when it makes them.
            if self._peers is not None:
                self._peers.apply()
            return None
        guest = self._guest
        if guest is None:
            raise UsageError(
                f"the guest {self._record.name!r} is {self._record.state}, not running",
                stage="keeper",
            )
        if isinstance(operation, SetMemory):
            started = self._plan.machine.memory_bytes
            size = await change_memory(guest, self._record.name, operation, started_bytes=started)
            self._note_memory(size)
            return MemoryChanged(size)
        if isinstance(operation, ShareOperation):
            return await change_shares(guest, self._record.name, operation)
        if isinstance(operation, ResizeDisk):
            from innkeeper.keeper.disk_online import resize_attached

            return await resize_attached(guest, self._plan.machine, self._plan.layout, operation)
        if isinstance(operation, HoldStill):
            await self._still.hold(guest, operation)
        elif isinstance(operation, Pause) and not guest.paused:
            await guest.pause()
            self._enter("paused")
        elif isinstance(operation, Resume) and guest.paused:
            self._still.check_free()
            await guest.resume()
            self._enter("running", reason="resumed")
        return None

    def _note_shares(self, plan: SharePlan, report: ShareReport) -> None:
        known = self._record.shares
        # A guest that starts again has them as they are now.
        self._plan = with_shares(self._plan, plan)
        self._ledger.write(shares=report)
        if known is not None and report.fault != known.fault:
            healed = "its shares were mounted anew; what programs had open there is lost"
            self._enter(self._record.state, reason=report.fault or healed)

    def _note_memory(self, actual: object) -> None:
        size = bounded_size(actual, self._plan.machine.memory_bytes)
        if size != self._record.memory_bytes:
            self._ledger.write(memory_bytes=size)

    def _on_still(self, state: State) -> None:
        self._enter(state, reason="one of its disks is read" if state == "paused" else "resumed")

    def _note_disks(self, disks: tuple[DiskState, ...]) -> None:
        self._ledger.write(disks=disks)

    def _tell_space(self, disk: DiskState) -> None:
        """A disk of the guest is full, or is not any more; the guest's own state stays."""
        record = self._record
        event = StateChanged(
            record.name,
            record.state,
            time.time(),
            describe_space(disk),
            disk=disk.name,
            space=disk.space,
        )
        self._control.send(event)
        if self._door is not None:
            self._door.tell(event)

    def _set_peers(self, peers: Peers | None) -> None:
        self._peers = peers

    def _present(self) -> StateChanged:
        record = self._record
        return StateChanged(record.name, record.state, record.changed_at, record.reason)

    def _on_stage(self, name: str, seconds: float) -> None:
        self._ledger.write(stages={**self._record.stages, name: seconds})
        self._control.send(StageDone(name, seconds))

    def _enter(self, state: State, *, reason: str = "", must: bool = False, **values: Any) -> None:
        """Write a new state to the disk, then tell everybody."""
        if state not in LIVE_STATES:
            values |= {"network": None, "forwards": {}, "shares": None}
        if state not in LIVE_STATES:
            values["memory_bytes"] = None
        self._ledger.write(state=state, reason=reason, changed_at=time.time(), must=must, **values)
        self._control.send(self._present())
        if self._door is not None:
            self._door.tell(self._present())
