# SPDX-License-Identifier: Apache-2.0
"""The async twins of `Machine` and `GuestProcess`: the same names, with `await`.

Each call runs in a thread of its own, not in the loop's pool of a few threads,
which some long commands would fill. A call that is cancelled is first told to
end, then waited for: afterwards nothing of it runs, here or in the guest.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

from innkeeper.api.commands import OUTPUT_LIMIT_BYTES, make_command
from innkeeper.api.completed import CompletedExec
from innkeeper.api.files import GuestFiles
from innkeeper.api.machine import Condition, Machine
from innkeeper.api.process import GuestProcess
from innkeeper.api.session import Remote
from innkeeper.errors import GuestError, InnError, TimedOut
from innkeeper.keeper.machines import stop_machine
from innkeeper.model.machine import RestartPolicy
from innkeeper.model.record import Record, State
from innkeeper.registry.layout import host_layout

T = TypeVar("T")

# A cancelled wait ends within this time.
_SLICE_S = 0.5


async def in_thread(
    work: Callable[[], T],
    *,
    give_up: Callable[[], None] = lambda: None,
    discard: Callable[[T], None] = lambda _result: None,
) -> T:
    """The result of `work`, done in a thread of its own.

    :param give_up: called when the task is cancelled; makes `work` end soon.
    :param discard: undoes a result that came although the task was cancelled.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def finish(results: list[T], error: BaseException | None) -> None:
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(results[0])

    def body() -> None:
        results: list[T] = []
        error: BaseException | None = None
        try:
            results.append(work())
        except BaseException as exc:  # noqa: BLE001 - goes to the task that waits
            error = exc
        # The loop is closed where the program ends without waiting.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, results, error)

    threading.Thread(target=body, name="innkeeper", daemon=True).start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        give_up()
        while not done.done():
            # A second cancellation must not leave the thread behind either.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({done})
        if done.exception() is None:
            result = done.result()
            await in_thread(lambda: discard(result))
        raise


async def _patiently(wait: Callable[[float], T], timeout_s: float | None) -> T:
    """A wait that a cancellation can end: in slices.

    :raise TimedOut: the time is over.
    """
    deadline = time.monotonic() + (threading.TIMEOUT_MAX if timeout_s is None else timeout_s)
    while True:
        left_s = deadline - time.monotonic()
        slice_s = max(0.0, min(left_s, _SLICE_S))
        try:
            return await in_thread(partial(wait, slice_s))
        except TimedOut:
            if left_s <= _SLICE_S:
                raise


class _Starting:
    """`AsyncMachine.run(...)`: to be awaited, or entered with `async with`."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._machine: AsyncMachine | None = None

    def __await__(self) -> Generator[Any, None, AsyncMachine]:
        return self._make().__await__()  # type: ignore[no-any-return]  # a coroutine of it

    async def __aenter__(self) -> AsyncMachine:
        self._machine = await self
        return self._machine

    async def __aexit__(self, *_: object) -> None:
        assert self._machine is not None
        await self._machine.close()


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

    @classmethod
    def run(cls, image: str = "tiny", **settings: Any) -> _Starting:
        """Start an ephemeral guest: `await` it, or enter it with `async with`.

        :param settings: as those of :meth:`Machine.run`.
        :raise InnError: as :meth:`Machine.run`.
        """

        async def make() -> AsyncMachine:
            remote = Remote()
            try:
                machine = await in_thread(
                    lambda: Machine._run(image, remote=remote, **settings),  # noqa: SLF001 - the same package
                    give_up=remote.hang_up,
                    discard=Machine.close,
                )
            finally:
                remote.close()
            return cls(machine)

        return _Starting(make)

    @classmethod
    async def create(
        cls, name: str, *, restart: RestartPolicy = "never", **settings: Any
    ) -> AsyncMachine:
        """Describe a machine that stays, as :meth:`Machine.create`."""
        return cls(await in_thread(lambda: Machine.create(name, restart=restart, **settings)))

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

    async def exec(
        self,
        argv: Sequence[str],
        *,
        input: bytes | str = b"",  # noqa: A002 - subprocess.run calls it so
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        check: bool = False,
        timeout_s: float | None = None,
        text: bool = False,
        max_output_bytes: int = OUTPUT_LIMIT_BYTES,
    ) -> CompletedExec[Any]:
        """Run a command to its end, as :meth:`Machine.exec`; cancelled, it is ended."""
        command = make_command(argv, env=env, cwd=cwd, user=user)
        data = input.encode() if isinstance(input, str) else input
        with Remote() as remote:
            result: CompletedExec[Any] = await in_thread(
                lambda: self.sync._exec(  # noqa: SLF001 - the same package
                    command,
                    data,
                    timeout_s=timeout_s,
                    max_output_bytes=max_output_bytes,
                    remote=remote,
                ),
                give_up=remote.hang_up,
            )
        if text:
            result = result.as_text()
        if check:
            result.check_returncode()
        return result

    async def popen(self, argv: Sequence[str], **options: Any) -> AsyncGuestProcess:
        """Start a command and go on, as :meth:`Machine.popen`."""
        process = await in_thread(
            lambda: self.sync.popen(argv, **options), discard=GuestProcess.close
        )
        return AsyncGuestProcess(process)

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

    async def wait_for(self, condition: Condition, *, timeout_s: float | None = None) -> Record:
        """Wait for a condition, as :meth:`Machine.wait_for`; cancelled, it gives up at once."""
        return await _patiently(
            lambda left_s: self.sync.wait_for(condition, timeout_s=left_s), timeout_s
        )

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

    async def read(self, path: str, **options: Any) -> bytes:
        """The content of a file, as :meth:`GuestFiles.read`."""
        return await in_thread(lambda: self._files.read(path, **options))

    async def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Write a file, as :meth:`GuestFiles.write`."""
        await in_thread(lambda: self._files.write(path, data, mode=mode))

    async def exists(self, path: str) -> bool:
        """True where there is a file or folder."""
        return await in_thread(lambda: self._files.exists(path))

    async def push(self, src: str | Path, dst: str) -> None:
        """Copy a file or folder into the guest, as :meth:`GuestFiles.push`."""
        await in_thread(lambda: self._files.push(src, dst))

    async def pull(self, src: str, dst: str | Path, **options: Any) -> None:
        """Copy a file or folder from the guest, as :meth:`GuestFiles.pull`."""
        await in_thread(lambda: self._files.pull(src, dst, **options))


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
        return await _patiently(self.sync.wait, timeout_s)

    async def kill(self) -> None:
        """End it with SIGKILL."""
        await in_thread(self.sync.kill)

    async def send_signal(self, number: int) -> None:
        """Send a signal to it and what it started."""
        await in_thread(lambda: self.sync.send_signal(number))

    async def close(self) -> None:
        """End it if it runs, and release everything. Idempotent."""
        await in_thread(self.sync.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
