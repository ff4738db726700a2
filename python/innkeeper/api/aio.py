# SPDX-License-Identifier: Apache-2.0
"""The async twins of `Machine` and `GuestProcess`: the same names, with `await`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, Unpack, overload

from innkeeper.agent.attach import KeptSession
from innkeeper.api.aio_listen import AsyncGuestListener
from innkeeper.api.aio_shares import AsyncGuestShares
from innkeeper.api.completed import CompletedExec
from innkeeper.api.files import (
    PULL_LIMIT_BYTES,
    PULL_LIMIT_ENTRIES,
    READ_LIMIT_BYTES,
    GuestFiles,
)
from innkeeper.api.forward import Forward
from innkeeper.api.machine import Condition, Machine
from innkeeper.api.process import GuestProcess
from innkeeper.api.session import Remote
from innkeeper.api.settings import CreateOptions, ExecOptions, PopenOptions, RunOptions
from innkeeper.api.streams import AsyncLines, states
from innkeeper.api.threads import Opening, in_thread, patiently
from innkeeper.errors import GuestError, InnError
from innkeeper.keeper.logs import Source
from innkeeper.keeper.machines import stop_machine
from innkeeper.keeper.messages import StateChanged
from innkeeper.model.record import Record, State
from innkeeper.registry.layout import host_layout
from innkeeper.system.sockets import StreamSocket


class AsyncMachine:
    """The async twin of `Machine`, whose methods say what each does and raises.

    ::

        async with innkeeper.AsyncMachine.run("tiny") as vm:
            done = await vm.exec(["uname", "-r"], text=True)

    A cancelled `exec` ends its command, a cancelled `run` its guest.

    :ivar sync: the machine behind it.
    """

    def __init__(self, machine: Machine) -> None:
        self.sync = machine
        self.files = AsyncGuestFiles(machine.files)
        self.shares = AsyncGuestShares(machine.shares)

    @classmethod
    def run(cls, image: str = "tiny", **settings: Unpack[RunOptions]) -> Opening[AsyncMachine]:
        """Start an ephemeral guest, as :meth:`Machine.run`.

        `await` it, or enter it with `async with`.
        """

        async def make() -> AsyncMachine:
            with Remote() as remote:
                machine = await in_thread(
                    lambda: Machine._run(image, remote=remote, **settings),  # noqa: SLF001 - the same package
                    give_up=remote.hang_up,
                    discard=Machine.close,
                )
            return cls(machine)

        return Opening(make, AsyncMachine.close)

    @classmethod
    async def create(cls, name: str, **settings: Unpack[CreateOptions]) -> AsyncMachine:
        """Describe a machine that stays, as :meth:`Machine.create`."""
        return cls(await in_thread(lambda: Machine.create(name, **settings)))

    @classmethod
    async def get(cls, name: str) -> AsyncMachine:
        """A machine by its name, as :meth:`Machine.get`."""
        return cls(await in_thread(lambda: Machine.get(name)))

    @classmethod
    async def list(cls) -> tuple[AsyncMachine, ...]:
        """All machines and running guests, as :meth:`Machine.list`."""
        return tuple(cls(machine) for machine in await in_thread(Machine.list))

    def __repr__(self) -> str:
        """Its name."""
        return f"<AsyncMachine {self.name!r}>"

    @property
    def name(self) -> str:
        """Its name."""
        return self.sync.name

    @property
    def record(self) -> Record:
        """What is known of its life; a small file is read for it."""
        return self.sync.record

    @property
    def state(self) -> State:
        """Its state, now."""
        return self.sync.state

    @property
    def timings(self) -> dict[str, float]:
        """How long the parts of the last start took, in seconds."""
        return self.sync.timings

    @overload
    async def exec(
        self, argv: Sequence[str], *, text: Literal[False] = ..., **options: Unpack[ExecOptions]
    ) -> CompletedExec[bytes]: ...

    @overload
    async def exec(
        self, argv: Sequence[str], *, text: Literal[True], **options: Unpack[ExecOptions]
    ) -> CompletedExec[str]: ...

    async def exec(
        self, argv: Sequence[str], *, text: bool = False, **options: Unpack[ExecOptions]
    ) -> CompletedExec[Any]:
        """Run a command to its end, as :meth:`Machine.exec`; cancelled, it is ended."""
        with Remote() as remote:
            return await in_thread(
                lambda: self.sync._exec(argv, text=text, remote=remote, **options),  # noqa: SLF001 - the same package
                give_up=remote.hang_up,
            )

    def popen(
        self, argv: Sequence[str], **options: Unpack[PopenOptions]
    ) -> Opening[AsyncGuestProcess]:
        """Start a command and go on, as :meth:`Machine.popen`.

        `await` it, or enter it with `async with`.
        """

        async def make() -> AsyncGuestProcess:
            process = await in_thread(
                lambda: self.sync.popen(argv, **options), discard=GuestProcess.close
            )
            return AsyncGuestProcess(process)

        return Opening(make, AsyncGuestProcess.close)

    async def sessions(self) -> tuple[KeptSession, ...]:
        """The sessions that outlive their connections, as :meth:`Machine.sessions`."""
        return await in_thread(self.sync.sessions)

    def attach(self, session_id: str) -> Opening[AsyncGuestProcess]:
        """Go on with a kept session, as :meth:`Machine.attach`; used as :meth:`popen`."""

        async def make() -> AsyncGuestProcess:
            return AsyncGuestProcess(
                await in_thread(lambda: self.sync.attach(session_id), discard=GuestProcess.close)
            )

        return Opening(make, AsyncGuestProcess.close)

    async def connect(self, port: int) -> StreamSocket:
        """A stream socket to a vsock port, as :meth:`Machine.connect`; it does not block."""
        sock = await in_thread(lambda: self.sync.connect(port), discard=StreamSocket.close)
        sock.settimeout(0.0)
        return sock

    def listen(self, port: int) -> Opening[AsyncGuestListener]:
        """Wait for the guest at a port, as :meth:`Machine.listen`; used as :meth:`forward`."""

        async def make() -> AsyncGuestListener:
            return AsyncGuestListener(self.sync.listen(port))

        return Opening(make, AsyncGuestListener.close)

    def forward(
        self,
        guest_port: int,
        host_port: int = 0,
        address: str = "127.0.0.1",
        *,
        guest_address: str = "",
    ) -> Opening[Forward]:
        """Lead a port of the host to one of the guest, as :meth:`Machine.forward`.

        `await` it, or enter it with `async with`.
        """

        async def make() -> Forward:
            return await in_thread(
                lambda: self.sync.forward(
                    guest_port, host_port, address, guest_address=guest_address
                ),
                discard=Forward.close,
            )

        async def end(made: Forward) -> None:
            await in_thread(made.close)

        return Opening(make, end)

    async def start(self) -> bool:
        """Start the machine, as :meth:`Machine.start`; cancelled, the guest is ended."""
        cancelled = threading.Event()

        def check() -> None:
            if cancelled.is_set():
                raise GuestError("the start was given up", stage="start")

        def give_up() -> None:
            cancelled.set()
            threading.Thread(target=kill, name="innkeeper", daemon=True).start()

        def kill() -> None:
            with contextlib.suppress(InnError):
                stop_machine(host_layout(), self.name, timeout_s=0)

        def undo(*begun: bool) -> None:
            if any(begun):
                self.sync.stop(0)

        return await in_thread(
            lambda: self.sync._start(check),  # noqa: SLF001 - the same package
            give_up=give_up,
            discard=undo,
        )

    async def stop(self, timeout_s: float = 10) -> bool:
        """Stop the guest, as :meth:`Machine.stop`."""
        return await in_thread(lambda: self.sync.stop(timeout_s))

    async def restart(self, timeout_s: float = 10) -> None:
        """Stop the machine and start it again."""
        await in_thread(lambda: self.sync.restart(timeout_s))

    async def remove(self, *, force: bool = False) -> bool:
        """Remove the machine, as :meth:`Machine.remove`."""
        return await in_thread(lambda: self.sync.remove(force=force))

    async def pause(self) -> None:
        """Stop the guest's CPUs."""
        await in_thread(self.sync.pause)

    async def resume(self) -> None:
        """Let a paused guest go on."""
        await in_thread(self.sync.resume)

    async def set_memory(self, memory: str | int, *, timeout_s: float = 30.0) -> int:
        """Change the memory of the running guest, as :meth:`Machine.set_memory`."""
        return await in_thread(lambda: self.sync.set_memory(memory, timeout_s=timeout_s))

    async def wait_for(self, condition: Condition, *, timeout_s: float | None = None) -> Record:
        """Wait for a condition, as :meth:`Machine.wait_for`; cancelled, it gives up at once."""
        return await patiently(
            lambda left_s: self.sync.wait_for(condition, timeout_s=left_s), timeout_s
        )

    def logs(self, *sources: Source, follow: bool = False) -> AsyncLines:
        """The lines of the guest's logs, as :meth:`Machine.logs`.

        `await` it for all of them so far, or go through them with `async for`;
        with `follow`, that ends with the guest.
        """
        return AsyncLines(lambda: self.sync._open_logs(sources), follow=follow)  # noqa: SLF001 - the same package

    def events(self, *, timeout_s: float | None = None) -> AsyncGenerator[StateChanged, None]:
        """The guest's states, as :meth:`Machine.events`, for `async for`."""
        return states(self.sync._watch, timeout_s)  # noqa: SLF001 - the same package

    async def detach(self) -> None:
        """Leave a guest of :meth:`run` to its keeper."""
        await in_thread(self.sync.detach)

    async def close(self) -> None:
        """End a guest of :meth:`run` at once. Idempotent."""
        await in_thread(self.sync.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncGuestFiles:
    """The async twin of `GuestFiles`. A transfer that is cancelled runs to its end first."""

    def __init__(self, files: GuestFiles) -> None:
        self._files = files

    async def read(self, path: str, *, max_bytes: int = READ_LIMIT_BYTES) -> bytes:
        """The content of a file, as :meth:`GuestFiles.read`."""
        return await in_thread(lambda: self._files.read(path, max_bytes=max_bytes))

    async def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Write a file, as :meth:`GuestFiles.write`."""
        await in_thread(lambda: self._files.write(path, data, mode=mode))

    async def exists(self, path: str) -> bool:
        """True where there is a file or folder."""
        return await in_thread(lambda: self._files.exists(path))

    async def push(self, src: str | Path, dst: str) -> None:
        """Copy a file or folder into the guest, as :meth:`GuestFiles.push`."""
        await in_thread(lambda: self._files.push(src, dst))

    async def pull(
        self,
        src: str,
        dst: str | Path,
        *,
        max_bytes: int = PULL_LIMIT_BYTES,
        max_entries: int = PULL_LIMIT_ENTRIES,
    ) -> None:
        """Copy a file or folder from the guest, as :meth:`GuestFiles.pull`."""
        await in_thread(
            lambda: self._files.pull(src, dst, max_bytes=max_bytes, max_entries=max_entries)
        )


class AsyncGuestProcess:
    """The async twin of `GuestProcess`.

    :ivar sync: the process behind it.
    """

    def __init__(self, process: GuestProcess) -> None:
        self.sync = process

    @property
    def pid(self) -> int:
        """Its process id in the guest."""
        return self.sync.pid

    @property
    def session_id(self) -> str:
        """By which a kept session is found again; else ""."""
        return self.sync.session_id

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it runs."""
        return self.sync.returncode

    async def write(self, data: bytes) -> None:
        """Write to its stdin, and flush; cancelled, the command is ended."""

        def work() -> None:
            self.sync.stdin.write(data)
            self.sync.stdin.flush()

        await in_thread(work, give_up=self.sync.hang_up)

    async def close_stdin(self) -> None:
        """End its stdin."""
        await in_thread(self.sync.stdin.close, give_up=self.sync.hang_up)

    async def read(self, size: int = -1) -> bytes:
        """Bytes of its stdout, b"" at the end; cancelled, the command is ended."""
        return await in_thread(lambda: self.sync.stdout.read(size), give_up=self.sync.hang_up)

    async def readline(self) -> bytes:
        """A line of its stdout, b"" at the end; cancelled, the command is ended."""
        return await in_thread(self.sync.stdout.readline, give_up=self.sync.hang_up)

    async def communicate(self, data: bytes = b"") -> tuple[bytes, bytes]:
        """Send `data`, read both outputs; cancelled, the command is ended."""
        return await in_thread(lambda: self.sync.communicate(data), give_up=self.sync.hang_up)

    async def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end; cancelled, the command runs on."""
        return await patiently(self.sync.wait, timeout_s)

    async def kill(self) -> None:
        """End it with SIGKILL."""
        await in_thread(self.sync.kill)

    async def send_signal(self, number: int) -> None:
        """Send a signal to it and what it started."""
        await in_thread(lambda: self.sync.send_signal(number))

    async def detach(self) -> None:
        """Leave a kept session to the guest, as :meth:`GuestProcess.detach`."""
        await in_thread(self.sync.detach)

    async def close(self) -> None:
        """End it if it runs and is not kept, and release everything. Idempotent."""
        await in_thread(self.sync.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
