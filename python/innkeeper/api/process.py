# SPDX-License-Identifier: Apache-2.0
"""A command in a guest that runs beside the program, as :class:`subprocess.Popen`.

One thread for each process moves the bytes between the guest's connection and
socket pairs, whose other ends are the streams. The thread knows nothing of the
:class:`GuestProcess`, so that one that is dropped can be collected.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import warnings
from collections.abc import Callable
from typing import BinaryIO, Self

from innkeeper.agent.session import Kept
from innkeeper.agent.setup import WindowSize
from innkeeper.api.session import DIRECT_SIGNALS, HUNG_UP, Remote, RemoteSession
from innkeeper.errors import GuestError, GuestLost, InnError, TimedOut, UsageError
from innkeeper.model.machine import Command
from innkeeper.system.pump import InputStream, OutputStream, Sink
from innkeeper.system.sockets import StreamSocket, stream_pair

_TERMINATE = 15
_KILL = 9
WINDOW = WindowSize(rows=24, cols=80)

Explain = Callable[[GuestLost], InnError]
Kill = Callable[[int, int], None]


class _Work:
    """What the thread works on, and what it leaves behind."""

    def __init__(
        self,
        sock: StreamSocket,
        command: Command,
        *,
        tty: bool,
        keep_stderr_bytes: int | None,
        setup: bytes | None,
    ) -> None:
        self.remote = Remote()
        self.error: InnError | None = None
        self.code: int | None = None
        self.kept: Kept | None = None
        # Set when the command runs or will never run; when it has ended or was lost.
        self.begun = threading.Event()
        self.ended = threading.Event()
        self._sock = sock
        self.stdin_end, stdin = stream_pair()
        self.stdout_end, stdout = stream_pair()
        self.stderr_end, stderr = stream_pair()
        self._theirs = (stdin, stdout, stderr)
        self._streams = (
            InputStream(stdin.fileno()),
            OutputStream(stdout.fileno(), name="stdout"),
            OutputStream(stderr.fileno(), name="stderr"),
        )
        complaints: Sink = self._streams[2]
        if keep_stderr_bytes is not None:
            complaints = self.kept = Kept(keep_stderr_bytes)
        self.session = RemoteSession(
            sock,
            command,
            stdin=self._streams[0],
            stdout=self._streams[1],
            stderr=complaints,
            remote=self.remote,
            window=WINDOW if tty else None,
            setup=setup,
        )
        self.session.running = self.begun
        self.session.exited = self.ended

    def run(self) -> None:
        """The thread: the session, then the release of its ends."""
        try:
            code = self.session.run()
            self.code = code if self.session.code is None else self.session.code
        except InnError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - a thread has nobody to raise to: wait() does
            self.error = GuestError(f"the session broke: {error!r}", stage="session")
        finally:
            self.close()
            self.begun.set()
            self.ended.set()

    def close(self) -> None:
        """Release the thread's descriptors; the streams see their end."""
        for stream in self._streams:
            stream.close()
        for end in self._theirs:
            end.close()
        self._sock.close()
        self.remote.close()

    def close_ours(self) -> None:
        """Release the program's descriptors where no stream was made of them."""
        for end in (self.stdin_end, self.stdout_end, self.stderr_end):
            end.close()


class GuestProcess:
    """A command that runs in a guest. Made by `Machine.popen`.

    Signals reach the command and what it started. The streams are binary and
    buffered: flush `stdin` to have the guest see what was written. A command
    that nobody reads from waits once some hundred KiB are on the way.

    As a context manager: closes the streams at the end and waits for the
    command; after an exception the command is ended. A kept session's command
    is never ended by closing: it runs on detached.

    :ivar args: its argv.
    :ivar pid: its process id in the guest.
    :ivar session_id: by which :meth:`Machine.attach` finds a kept session; else "".
    :ivar stdin: what it reads; close it to end it.
    :ivar stdout: what it writes.
    :ivar stderr: what it complains of; with a terminal, all is in `stdout`.
    """

    def __init__(
        self,
        sock: StreamSocket,
        command: Command,
        *,
        tty: bool,
        explain: Explain,
        kill: Kill,
        keep_stderr_bytes: int | None = None,
        setup: bytes | None = None,
    ) -> None:
        self.args = command.argv
        self._explain = explain
        self._kill = kill
        try:
            self._work = work = _Work(
                sock, command, tty=tty, keep_stderr_bytes=keep_stderr_bytes, setup=setup
            )
        except BaseException:
            sock.close()
            raise
        self._thread = threading.Thread(
            target=work.run, name=f"innkeeper {' '.join(command.argv)[:40]}", daemon=True
        )
        self._thread.start()
        try:
            work.begun.wait()
            self._check_begun()
        except BaseException:
            work.remote.hang_up()
            self._thread.join()
            work.close_ours()
            raise
        self.pid = work.session.pid
        self.session_id = work.session.session_id
        self.stdin: BinaryIO = _stream(work.stdin_end, "wb")
        self.stdout: BinaryIO = _stream(work.stdout_end, "rb")
        self.stderr: BinaryIO = _stream(work.stderr_end, "rb")

    def __repr__(self) -> str:
        """The command and how it stands."""
        return f"<GuestProcess pid={self.pid} args={self.args} returncode={self.returncode}>"

    @property
    def returncode(self) -> int | None:
        """The exit code, 128+N after signal N; None while it runs or when it was lost."""
        return self._work.session.code if self._work.code is None else self._work.code

    @property
    def complaints(self) -> bytes:
        """The start of stderr, where it was asked to be kept in memory."""
        return bytes(self._work.kept.data) if self._work.kept else b""

    def poll(self) -> int | None:
        """The exit code if the command has ended, else None.

        :raise GuestLost: the guest ended under it.
        """
        if not self._work.ended.is_set():
            return None
        return self.wait()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the command's end; its exit code.

        :raise TimedOut: it runs still.
        :raise GuestLost: the guest ended under it.
        """
        if not self._work.ended.wait(timeout_s):
            raise TimedOut(f"the command did not end within {timeout_s or 0:g} s", stage="session")
        if self.returncode is None and self._work.error is not None:
            raise self._told(self._work.error)
        code = self.returncode
        return HUNG_UP if code is None else code

    def communicate(
        self, data: bytes = b"", *, timeout_s: float | None = None
    ) -> tuple[bytes, bytes]:
        """Send `data`, close stdin, read both outputs to their ends; returns them.

        :raise TimedOut: the command did not end in time; it runs on.
        :raise GuestLost: the guest ended under it.
        """
        kept: dict[str, bytes] = {}

        def read(name: str, stream: BinaryIO) -> None:
            with contextlib.suppress(OSError, ValueError):
                kept[name] = stream.read()

        def feed() -> None:
            with contextlib.suppress(OSError, ValueError):
                self.stdin.write(data)
            with contextlib.suppress(OSError, ValueError):
                self.stdin.close()

        jobs = [
            threading.Thread(target=read, args=("stdout", self.stdout), daemon=True),
            threading.Thread(target=read, args=("stderr", self.stderr), daemon=True),
            threading.Thread(target=feed, daemon=True),
        ]
        for job in jobs:
            job.start()
        self.wait(timeout_s)
        for job in jobs:
            job.join()
        return kept.get("stdout", b""), kept.get("stderr", b"")

    def send_signal(self, number: int) -> None:
        """Send a signal to the command and what it started; one that has ended is fine.

        HUP, INT, QUIT and TERM travel with the session; others need the guest's
        `kill` and a moment.

        :raise InnError: the guest could not send it.
        """
        if self._work.ended.is_set():
            return
        if number in DIRECT_SIGNALS:
            self._work.remote.send(number)
            return
        try:
            self._kill(self.pid, number)
        except InnError:
            if not self._work.ended.is_set():
                raise

    def terminate(self) -> None:
        """Ask the command to end (SIGTERM)."""
        self.send_signal(_TERMINATE)

    def kill(self) -> None:
        """End the command with SIGKILL; where the guest cannot, by hanging up."""
        try:
            self.send_signal(_KILL)
        except InnError:
            self.hang_up()

    def hang_up(self) -> None:
        """Close the connection: the agent sends SIGHUP, and SIGKILL soon after. Idempotent."""
        self._work.remote.hang_up()

    def detach(self) -> None:
        """Leave a kept session to the guest and release everything here.

        :raise UsageError: it is none: its command would be ended.
        """
        if not self.session_id:
            raise UsageError(
                f"{self!r} ends with its connection", stage="session", fix="popen(..., detach=True)"
            )
        self.close()

    def close(self) -> None:
        """End the command if it runs and is not kept, close the streams, wait for the thread. Idempotent."""
        self._work.remote.hang_up()
        self._thread.join()
        self._close_streams()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.close()
            return
        try:
            self._close_streams()
            self.wait()
        finally:
            self.close()

    def __del__(self) -> None:
        work = getattr(self, "_work", None)
        if work is None or work.ended.is_set() or sys.is_finalizing():
            return
        warnings.warn(
            f"{self!r} still runs and was dropped", ResourceWarning, stacklevel=2, source=self
        )
        work.remote.hang_up()

    def _check_begun(self) -> None:
        if self._work.error is not None:
            raise self._told(self._work.error)

    def _close_streams(self) -> None:
        for stream in (self.stdout, self.stderr, self.stdin):
            # What could not be flushed has no reader any more.
            with contextlib.suppress(OSError, ValueError):
                stream.close()

    def _told(self, error: InnError) -> InnError:
        return self._explain(error) if isinstance(error, GuestLost) else error


def _stream(sock: StreamSocket, mode: str) -> BinaryIO:
    """A buffered file that owns the socket."""
    made: BinaryIO = sock.makefile(mode)  # type: ignore[call-overload]  # the mode is a variable
    sock.close()
    return made
