# SPDX-License-Identifier: Apache-2.0
"""Moving bytes between a stream socket and inherited descriptors without blocking.

stdin, stdout and stderr are shared with the shell and its other programs, so
`O_NONBLOCK` is never set on them: the flag belongs to the open file
description and would outlive us. Pipes and terminals are opened anew through
/proc/self/fd for a private description; sockets take MSG_DONTWAIT; regular
files and other devices never wait for long. `poll` serves all of them, where
`epoll` refuses regular files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from innkeeper.errors import HostError, OutOfSpace

StreamSocket: TypeAlias = socket.socket

READ_SIZE = 256 << 10
# What write(2) takes without blocking after POLLOUT: one free page of a pipe.
_SAFE_WRITE = select.PIPE_BUF
# A terminal promises less room (n_tty's WAKEUP_CHARS).
_SAFE_TTY_WRITE = 256
# Unix98 pseudo-terminals (Documentation/admin-guide/devices.txt). A master
# (5, 2) must not be opened anew: that would make a new pair.
_PTS_MAJORS = range(136, 144)
_IOV_MAX = 64


@dataclass(frozen=True)
class Ready:
    """What `poll` said about one descriptor."""

    readable: bool
    writable: bool
    # The other end is gone; more may still be readable.
    hung_up: bool


class Poller:
    """`poll(2)` over a set of descriptors given anew before each wait."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._registered: dict[int, int] = {}

    def wait(
        self, *, read: Iterable[int], write: Iterable[int], timeout_s: float | None
    ) -> dict[int, Ready]:
        """Wait until one of the descriptors is ready, or the time is over.

        A descriptor in neither set is not watched at all: `poll` would report
        its hang-up again and again.
        """
        wanted: dict[int, int] = {}
        for fd in read:
            wanted[fd] = select.POLLIN
        for fd in write:
            wanted[fd] = wanted.get(fd, 0) | select.POLLOUT
        if wanted != self._registered:
            for fd in self._registered.keys() - wanted.keys():
                self._poll.unregister(fd)
            for fd, mask in wanted.items():
                self._poll.register(fd, mask)
            self._registered = wanted
        # Rounded up, so that a wait never ends just before its time and spins.
        timeout_ms = None if timeout_s is None else max(0, int(timeout_s * 1000 + 0.999))
        bad = select.POLLHUP | select.POLLERR | select.POLLNVAL
        return {
            fd: Ready(
                bool(mask & (select.POLLIN | bad)),
                bool(mask & (select.POLLOUT | bad)),
                bool(mask & bad),
            )
            for fd, mask in self._poll.poll(timeout_ms)
        }


class Source(Protocol):
    """Where a session's stdin comes from. `fd` is -1 when it need not be waited for."""

    fd: int

    def read(self) -> bytes | None:
        """Bytes, `b""` at the end, None when there are none yet."""


class Sink(Protocol):
    """Where output goes. `pending` counts the bytes taken but not yet written."""

    fd: int
    pending: int

    def put(self, data: bytes) -> None:
        """Take bytes."""

    def flush(self, *, polled: bool) -> None:
        """Write what can be written without waiting.

        :param polled: `poll` has just said that there is room.
        :raise BrokenPipeError: nobody reads any more.
        """


class InputStream:
    """An inherited descriptor to read from. A closed one is at its end."""

    def __init__(self, fd: int) -> None:
        self.fd = -1
        self._source = -1
        self._socket: StreamSocket | None = None
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            return
        self._source = fd
        if stat.S_ISSOCK(mode):
            self._socket = _duplicate_socket(fd)
        # A regular file is always ready; asking poll would only cost time.
        self.fd = -1 if stat.S_ISREG(mode) else fd

    def read(self) -> bytes | None:
        """See `Source.read`; after a POLLIN it does not wait.

        :raise HostError: reading failed, for instance since it is a folder.
        """
        if self._source < 0:
            return b""
        try:
            if self._socket is not None:
                return self._socket.recv(READ_SIZE, socket.MSG_DONTWAIT)
            return os.read(self._source, READ_SIZE)
        except BlockingIOError:
            return None
        except OSError as exc:
            # A terminal that has gone away, or whose job we no longer are; a reset.
            if exc.errno in (errno.EIO, errno.EBADF, errno.ECONNRESET):
                return b""
            raise HostError(f"cannot read stdin: {exc.strerror}", stage="session") from exc

    def close(self) -> None:
        """Release what was opened here; the inherited descriptor stays."""
        if self._socket is not None:
            self._socket.close()


class OutputStream:
    """An inherited descriptor to write to, behind a queue. A closed one swallows all.

    :ivar fd: what to wait on while `pending` is not 0.
    """

    def __init__(self, fd: int, *, name: str) -> None:
        self.fd = fd
        self.pending = 0
        self._name = name
        self._queue: deque[memoryview] = deque()
        self._limit = 0  # largest safe write; 0 is any
        self._owned = -1
        self._socket: StreamSocket | None = None
        self._open = True
        self._inspect(fd)

    def _inspect(self, fd: int) -> None:
        try:
            info = os.fstat(fd)
        except OSError:
            self._open = False
            return
        if stat.S_ISSOCK(info.st_mode):
            self._socket = _duplicate_socket(fd)
            return
        is_pipe = stat.S_ISFIFO(info.st_mode)
        is_terminal = stat.S_ISCHR(info.st_mode) and os.isatty(fd)
        if not (is_pipe or is_terminal):
            return
        self._limit = _SAFE_WRITE if is_pipe else _SAFE_TTY_WRITE
        if is_pipe or os.major(info.st_rdev) in _PTS_MAJORS:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            with contextlib.suppress(OSError):  # another user's pipe, or no /proc
                self._owned = self.fd = os.open(f"/proc/self/fd/{fd}", flags)
                self._limit = 0

    def put(self, data: bytes) -> None:
        """See `Sink.put`."""
        if not self._open or not data:
            return
        self._queue.append(memoryview(data))
        self.pending += len(data)

    def flush(self, *, polled: bool) -> None:
        """See `Sink.flush`.

        :raise BrokenPipeError: nobody reads any more.
        :raise OutOfSpace: the file system is full.
        :raise HostError: writing failed otherwise.
        """
        if self._limit and not polled:
            return  # it could block
        while self._queue:
            try:
                written = self._write()
            except BlockingIOError:
                return
            except BrokenPipeError:
                raise
            except OSError as exc:
                if exc.errno in (errno.EIO, errno.ECONNRESET):
                    raise BrokenPipeError(errno.EPIPE, "gone") from exc
                kind = OutOfSpace if exc.errno in (errno.ENOSPC, errno.EDQUOT) else HostError
                raise kind(f"cannot write {self._name}: {exc.strerror}", stage="session") from exc
            self._drop(written)
            if self._limit:
                return  # the next write needs another POLLOUT

    def _write(self) -> int:
        if self._limit:
            return os.write(self.fd, self._queue[0][: self._limit])
        if self._socket is not None:
            return self._socket.send(self._queue[0], socket.MSG_DONTWAIT)
        if len(self._queue) == 1:
            return os.write(self.fd, self._queue[0])
        return os.writev(self.fd, [self._queue[i] for i in range(min(len(self._queue), _IOV_MAX))])

    def _drop(self, count: int) -> None:
        self.pending -= count
        while count and self._queue:
            first = self._queue[0]
            if count < len(first):
                self._queue[0] = first[count:]
                return
            count -= len(first)
            self._queue.popleft()

    def discard(self) -> None:
        """Drop the queue and all that is put later."""
        self._open = False
        self._queue.clear()
        self.pending = 0

    def close(self) -> None:
        """Release what was opened here; the inherited descriptor stays."""
        self.discard()
        if self._socket is not None:
            self._socket.close()
        if self._owned >= 0:
            os.close(self._owned)
            self._owned = -1


def _duplicate_socket(fd: int) -> StreamSocket:
    """A socket object for an inherited socket; its description stays shared and blocking."""
    return socket.socket(fileno=os.dup(fd))


class Channel:
    """A connected stream socket of ours: non-blocking, with a queue of frames to send.

    The socket stays the caller's to close.
    """

    def __init__(self, sock: StreamSocket) -> None:
        sock.settimeout(0)
        self._sock = sock
        self._queue: deque[memoryview] = deque()
        self._buffer = memoryview(bytearray(READ_SIZE))
        self.pending = 0
        self.fd = sock.fileno()

    def queue(self, frames: bytes, *, urgent: bool = False) -> None:
        """Add whole frames; urgent ones pass all but those already on their way."""
        if urgent and self._queue:
            self._queue.insert(1, memoryview(frames))
        else:
            self._queue.append(memoryview(frames))
        self.pending += len(frames)

    def flush(self) -> None:
        """Send what can be sent now; a peer that is gone makes the queue vanish.

        That peer's last words may still wait to be read.
        """
        try:
            while self._queue:
                first = self._queue[0]
                sent = self._sock.send(first)
                self.pending -= sent
                if sent < len(first):
                    self._queue[0] = first[sent:]
                else:
                    self._queue.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._queue.clear()
            self.pending = 0

    def receive(self) -> bytes | None:
        """Bytes, `b""` when the connection is over, None when there are none yet."""
        try:
            count = self._sock.recv_into(self._buffer)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        return bytes(self._buffer[:count])
