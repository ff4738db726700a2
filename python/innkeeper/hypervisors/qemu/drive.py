# SPDX-License-Identifier: Apache-2.0
"""Carrying out a QEMU plan: the process, its QMP connection, its console.

::

    start_qemu() ──> Qemu ──connect()──> QMP answers ──end()──> reaped, everything closed

A `Qemu` exists only while there is a process to end; whoever starts it calls
:meth:`Qemu.end`, whatever happened in between.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from innkeeper.hypervisors.qemu.plan import QemuPlan, render_argv
from innkeeper.system.child_watch import ChildWatch
from innkeeper.system.process import Child, spawn
from innkeeper.system.sockets import StreamSocket, stream_pair

if TYPE_CHECKING:
    from qemu.qmp import QMPClient


class Qemu:
    """A running QEMU: its process, and our ends of its channels.

    :ivar vsock: our end of the vhost-user channel; its taker owns it and sets
        it to None here.
    :ivar console: our end of the serial console.
    :ivar shutdown_reason: QMP's word for why the guest ended ("guest-reset",
        "guest-shutdown", ...), once it has.
    :ivar on_full: called when the guest's CPUs were stopped because this host's disk is full.
    :ivar on_memory: called with QMP's word for the guest's memory whenever it changed.
    """

    def __init__(self, child: Child, ends: dict[str, StreamSocket]) -> None:
        self.child = child
        self._watch = ChildWatch(child)
        self.console = ends["console"]
        self.vsock: StreamSocket | None = ends["vsock"]
        self.shutdown_reason: str | None = None
        self.on_full: Callable[[], None] | None = None
        self.on_memory: Callable[[object], None] | None = None
        self._qmp_end = ends["qmp"]
        self._qmp: QMPClient | None = None
        self._events: asyncio.Task[None] | None = None

    def watch(self) -> asyncio.Future[int]:
        """A future with the return code, set when the process ends."""
        return self._watch.exited()

    async def connect(self) -> None:
        """Wait until QMP answers, which says that the machine is built.

        :raise QMPError: QEMU ended or speaks nonsense.
        """
        from qemu.qmp import QMPClient

        self._qmp = QMPClient("qemu")
        await self._qmp.connect(self._qmp_end)
        self._events = asyncio.create_task(self._follow_events(self._qmp))

    async def execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """A QMP command's answer.

        :raise QMPError: QEMU refused it or is gone.
        """
        assert self._qmp is not None, "connect() comes first"
        answer: object = await self._qmp.execute(command, arguments)
        return answer

    async def stopped_for_space(self) -> bool:
        """Whether the CPUs stand still because of a disk of this host.

        :raise QMPError: QEMU is gone.
        """
        answer: Any = await self.execute("query-status")
        return bool(answer.get("status") == "io-error")

    def stderr_lines(self) -> tuple[str, ...]:
        """What QEMU said on stderr so far (the first 16 KiB), for evidence."""
        return self._watch.stderr_lines()

    async def end(self) -> int:
        """Kill QEMU if it runs, reap it and close everything. Idempotent.

        A guest without a writable disk has nothing to lose; guests that have
        are shut down before this is called.
        """
        code = self._watch.end()
        if self._events is not None:
            self._events.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):  # any end is an end
                await self._events
        if self._qmp is not None:
            with contextlib.suppress(Exception):  # the peer is dead; any error says so
                await self._qmp.disconnect()
        for end in (self._qmp_end, self.console, self.vsock):
            if end is not None:
                end.close()
        return code

    async def _follow_events(self, qmp: QMPClient) -> None:
        async for event in qmp.events:
            data: Any = event.get("data", {})
            if event["event"] == "BALLOON_CHANGE" and self.on_memory is not None:
                self.on_memory(data.get("actual"))
            # QEMU's own choice for a full disk (werror=enospc); other errors the guest gets.
            stopped = event["event"] == "BLOCK_IO_ERROR" and data.get("action") == "stop"
            if stopped and self.on_full is not None:
                self.on_full()
            if event["event"] == "SHUTDOWN":
                self.shutdown_reason = str(data.get("reason", "unknown"))


def start_qemu(plan: QemuPlan, *, given: Mapping[str, int]) -> Qemu:
    """Start QEMU with a socket pair for each channel of the plan.

    :param given: descriptors of the plan that exist already, and stay the caller's.

    :raise MissingProgram: QEMU is not installed.
    :raise HostError: it cannot be started.
    """
    ours: dict[str, StreamSocket] = {}
    theirs: dict[str, StreamSocket] = {}
    try:
        for name in plan.descriptors:
            if name in given:
                continue
            ours[name], theirs[name] = stream_pair()
        numbers = {name: end.fileno() for name, end in theirs.items()} | dict(given)
        child = spawn(
            render_argv(plan, numbers),
            name="qemu",
            pass_fds=tuple(numbers.values()),
            capture_stderr=True,
        )
        return Qemu(child, ours)
    except BaseException:
        for end in ours.values():
            end.close()
        raise
    finally:
        for end in theirs.values():
            end.close()
