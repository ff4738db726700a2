# SPDX-License-Identifier: Apache-2.0
"""A machine and its guest, for Python programs.

::

    with innkeeper.Machine.run("tiny") as vm:
        print(vm.exec(["uname", "-r"], text=True, check=True).stdout)
"""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Literal, Self, Unpack

from innkeeper.api.attached import Attached
from innkeeper.api.commands import Commands
from innkeeper.api.files import GuestFiles
from innkeeper.api.session import Remote
from innkeeper.api.settings import (
    CreateOptions,
    MachineOptions,
    RunOptions,
    build_settings,
    read_tail,
)
from innkeeper.api.shares import GuestShares
from innkeeper.errors import InnError, TimedOut, UnknownName, UsageError
from innkeeper.keeper.client import StateWatch, watch_states
from innkeeper.keeper.logs import LOG_SOURCES, Line, Logs, Source, machine_logs
from innkeeper.keeper.machines import (
    pause_machine,
    remove_machine,
    resume_machine,
    set_memory,
    start_machine,
    stop_machine,
    wait_for_network,
    wait_for_state,
)
from innkeeper.keeper.messages import Event, Ready, StageDone, StateChanged
from innkeeper.keeper.prepare import RunRequest
from innkeeper.model.record import Record, State
from innkeeper.model.sizes import parse_size
from innkeeper.registry.layout import Layout, LogFolder, host_layout
from innkeeper.registry.machines import create_machine, known_names, load_machine, read_record
from innkeeper.registry.names import ephemeral_name
from innkeeper.system.files import make_folder

Condition = Literal["agent", "network", "stopped"]

_ENDED: tuple[State, ...] = ("stopped", "failed", "created")


class Machine(Commands):
    """One machine. Made by :meth:`run`, :meth:`create`, :meth:`get` and :meth:`list`.

    A guest of :meth:`run` belongs to this object: it ends with its `with`
    block, with :meth:`close`, and with the program in any case. All other
    machines stay as they are when the object goes.

    A child that the program forks cannot end its parent's guests.

    :ivar name: its name.
    :ivar files: its files.
    :ivar shares: folders of the host in it.
    :ivar timings: how long the parts of the last start by this object took, in seconds.
    """

    def __init__(self, layout: Layout, name: str) -> None:
        self.name = name
        self.files = GuestFiles(self)
        self.shares = GuestShares(layout, name)
        self.timings: dict[str, float] = {}
        self._layout = layout
        self._attached: Attached | None = None
        self._console: Path | None = None
        self._logs: LogFolder | None = None
        self._forwards = weakref.WeakSet()

    @classmethod
    def run(cls, image: str = "tiny", **settings: Unpack[RunOptions]) -> Self:
        """Start an ephemeral guest and wait until its agent (and network) is ready.

        :param settings: see :class:`innkeeper.api.settings.RunOptions`.
        :raise UsageError: a setting makes no sense.
        :raise HostError: this host cannot; says what is missing and how to get it.
        :raise ImageError: the kernel or the image cannot be used.
        :raise NameInUse: a running guest has the name.
        :raise BootFailed: the guest did not come up; the evidence is its console.
        :raise TimedOut: it was not ready in time.
        """
        return cls._run(image, **settings)

    @classmethod
    def _run(
        cls,
        image: str,
        *,
        name: str | None = None,
        console: str | Path | None = None,
        logs: str | Path | None = None,
        timeout_s: float | None = None,
        remote: Remote | None = None,
        **values: Unpack[MachineOptions],
    ) -> Self:
        """:meth:`run`; another thread may give it up by `remote`."""
        settings = build_settings(
            name or ephemeral_name(), source="Machine.run", image=image, **values
        )
        machine = cls(host_layout(), settings.name)
        machine._console = None if console is None else Path(console).absolute()
        if logs is not None:
            machine._logs = LogFolder(Path(logs).absolute())
            make_folder(machine._logs.path)
        request = RunRequest(
            machine=settings,
            wait="network" if settings.network != "none" else "agent",
            timeout_s=timeout_s,
            console_file=None if machine._console is None else str(machine._console),
            log_dir=None if machine._logs is None else str(machine._logs.path),
        )
        machine._attached = Attached(request, machine._layout, remote=remote)
        machine.timings = machine._attached.timings
        return machine

    @classmethod
    def create(cls, name: str, **settings: Unpack[CreateOptions]) -> Self:
        """Describe a machine that stays; :meth:`start` starts it.

        :param settings: see :class:`innkeeper.api.settings.CreateOptions`.
        :raise UsageError: there is one with this name, or a setting makes no sense.
        :raise HostError: it cannot be written.
        """
        layout = host_layout()
        create_machine(layout, build_settings(name, source="Machine.create", **settings))
        return cls._named(layout, name)

    @classmethod
    def get(cls, name: str) -> Self:
        """A machine, or a running guest, by its name.

        :raise UnknownName: there is none; names the nearest.
        """
        layout = host_layout()
        read_record(layout, name)
        return cls._named(layout, name)

    @classmethod
    def list(cls) -> tuple[Self, ...]:
        """All machines and all running guests of this user, by name."""
        layout = host_layout()
        return tuple(cls._named(layout, name) for name in known_names(layout))

    @classmethod
    def _named(cls, layout: Layout, name: str) -> Self:
        return cls(layout, name)

    def __repr__(self) -> str:
        """Its name, and whether it goes with this object."""
        return f"<Machine {self.name!r}{' (attached)' if self._attached is not None else ''}>"

    @property
    def record(self) -> Record:
        """What is known of its life: state, reason, last error, stages of the start.

        :raise UnknownName: it has been removed.
        """
        try:
            return read_record(self._layout, self.name)
        except UnknownName:
            if self._attached is None:
                raise
        # Nothing is kept of an ephemeral guest that ended.
        self._attached.wait_end(0.0)
        state = self._attached.state
        return Record(
            name=self.name,
            state="stopped" if state == "running" else state,
            changed_at=time.time(),
            reason=self._attached.reason,
        )

    @property
    def state(self) -> State:
        """Its state, now.

        :raise UnknownName: it has been removed.
        """
        return self.record.state

    def start(self) -> bool:
        """Start the machine and wait until it is ready; False when it ran already.

        :raise InnError: as :meth:`run`.
        """
        return self._start(lambda: None)

    def _start(self, check: Callable[[], None]) -> bool:
        """:meth:`start`; `check` is called between its steps and may raise."""
        if self._attached is not None and not self._attached.live:
            raise UsageError(
                f"the guest {self.name!r} of Machine.run has ended",
                stage="start",
                fix="Machine.run starts another; Machine.create makes one that stays",
            )
        timings: dict[str, float] = {}

        def on_event(event: Event) -> None:
            check()
            if isinstance(event, StageDone):
                timings[event.name] = event.seconds
            elif isinstance(event, Ready):
                timings.update({f"guest {name}": value for name, value in event.guest.items()})

        if self._attached is not None:
            return False
        begun = start_machine(self._layout, self.name, report=lambda _line: None, on_event=on_event)
        self.timings = timings
        return begun

    def stop(self, timeout_s: float = 10) -> bool:
        """Stop the guest; False when it did not run.

        :param timeout_s: its time to end in order, before it is ended less politely; 0 kills.
        :raise UnknownName: it has been removed.
        :raise TimedOut: its keeper did not end.
        """
        if self._attached is None:
            return stop_machine(self._layout, self.name, timeout_s=timeout_s)
        if not self._attached.live:
            return False
        try:
            return stop_machine(self._layout, self.name, timeout_s=timeout_s)
        except UnknownName:
            return False
        finally:
            self._attached.end()

    def restart(self, timeout_s: float = 10) -> None:
        """Stop the machine and start it again.

        :raise UsageError: it is a guest of :meth:`run`, which cannot come again.
        :raise InnError: as :meth:`stop` and :meth:`start`.
        """
        load_machine(self._layout, self.name)
        self.stop(timeout_s)
        self.start()

    def remove(self, *, force: bool = False) -> bool:
        """Remove the machine and what belongs to it; False when there was none.

        :param force: stop it first where it runs.
        :raise NameInUse: it runs.
        """
        if force:
            with contextlib.suppress(UnknownName):
                self.stop(0)
        return remove_machine(self._layout, self.name, force=force)

    def pause(self) -> None:
        """Stop the guest's CPUs.

        :raise GuestError: it does not run.
        """
        pause_machine(self._layout, self.name)

    def resume(self) -> None:
        """Let a paused guest go on, and set its clock.

        :raise GuestError: it does not run.
        """
        resume_machine(self._layout, self.name)

    def set_memory(self, memory: str | int, *, timeout_s: float = 30.0) -> int:
        """Change the memory of the running guest until it ends; returns its bytes then.

        The guest gives the rest back to the host, or takes it again.

        :param memory: as "256M", or in bytes: at most what it was started with.
        :raise UsageError: it cannot have so much, or so little.
        :raise TimedOut: it did not get there in time; it goes on trying.
        :raise GuestError: it does not run.
        """
        return set_memory(self._layout, self.name, parse_size(str(memory)), timeout_s=timeout_s)

    def wait_for(self, condition: Condition, *, timeout_s: float | None = None) -> Record:
        """Wait until the guest is ready, or has ended; returns its record then.

        :param condition: "agent": it is ready; "network": it has an address; "stopped": it does not run.
        :raise TimedOut: it did not get there in time.
        :raise GuestError: it ended, and readiness was waited for.
        """
        if condition not in ("agent", "network", "stopped"):
            raise UnknownName("condition", condition, ("agent", "network", "stopped"), stage="wait")
        if condition != "stopped":
            self._require_running()
            if condition == "network":
                return wait_for_network(self._layout, self.name, timeout_s=timeout_s)
            return wait_for_state(self._layout, self.name, ("running",), timeout_s=timeout_s)
        if self._attached is None:
            return wait_for_state(self._layout, self.name, _ENDED, timeout_s=timeout_s)
        if not self._attached.wait_end(timeout_s):
            raise TimedOut(
                f"the machine {self.name!r} was not stopped within {timeout_s or 0:g} s",
                stage="wait",
            )
        return self.record

    def detach(self) -> None:
        """Leave a guest of :meth:`run` to its keeper: it stays when the program ends.

        `Machine.get(name)` finds it, `inn stop NAME` ends it.

        :raise GuestError: it has ended.
        """
        if self._attached is not None:
            self._attached.detach()
            self._attached = None

    def close(self) -> None:
        """End a guest of :meth:`run` at once; leave every other machine alone. Idempotent.

        Ports that were led to it by :meth:`forward` are closed in any case.
        """
        self._close_forwards()
        if self._attached is not None:
            self._attached.end()

    def console_tail(self, lines: int = 40) -> tuple[str, ...]:
        """The end of the guest's console, control characters made harmless.

        Empty for a guest of :meth:`run` with neither `console=` nor `logs=`.
        """
        if self._console is not None:
            return read_tail(self._console, lines)
        with contextlib.suppress(UsageError):
            return tuple(deque((line.text for line in self.logs("console")), maxlen=lines))
        return ()

    def logs(self, *sources: Source, follow: bool = False) -> Generator[Line, None, None]:
        """The lines of the guest's logs, in the order of time; closed, it stops.

        :param sources: of "console", "guest" (its kernel and programs) and
            "keeper" (states, stages, warnings); all by default.
        :param follow: go on with lines as they come, until the guest has ended.
        :raise UsageError: a guest of :meth:`run` without `logs=` keeps none.
        """
        return _lines(self._open_logs(sources), follow=follow)

    def _open_logs(self, sources: tuple[Source, ...]) -> Logs:
        folder = self._logs or machine_logs(self._layout, self.name)
        return Logs(self._layout, self.name, folder, sources or LOG_SOURCES)

    def events(self, *, timeout_s: float | None = None) -> Iterator[StateChanged]:
        """The guest's present state and every later one, until its keeper ends.

        :raise GuestError: it does not run.
        :raise TimedOut: the time is over.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return watch_states(self._layout, self.name, deadline=deadline)

    def _watch(self) -> StateWatch:
        return StateWatch(self._layout, self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        attached = getattr(self, "_attached", None)
        # The keeper ends the guest when a program that ends lets go of it.
        if attached is None or not attached.live or sys.is_finalizing():
            return
        warnings.warn(
            f"{self!r} was dropped and is ended; use `with`, close() or detach()",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )
        with contextlib.suppress(InnError):
            attached.end()


def _lines(logs: Logs, *, follow: bool) -> Generator[Line, None, None]:
    with contextlib.closing(logs):
        for line in logs.follow() if follow else logs.present():
            if line is not None:
                yield line
