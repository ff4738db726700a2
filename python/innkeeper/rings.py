# SPDX-License-Identifier: Apache-2.0
"""Rings: messages between guests and their host, each stamped with its true sender.

::

    with Rings.open() as rings:  # in a guest; Rings.open(PATH) on the host
        rings.register(80)
        for message in rings.messages(80):
            print(message.sender, message.data)

This file needs the standard library alone: in guests it is innkeeper_rings.py.
A connection is an endpoint: what it registered and bound goes with it. One object
belongs to one thread. Calls raise `OSError` with the `errno` of `docs/reference/rings.md`.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Self

# Domains: in the place of a partner, all; the host. A guest's is its CID.
ANY, HOST = 0x7FF4, 0
RINGS_PORT, FAIL_EXIST = 7078, 1
MAX_MESSAGE_BYTES = 1 << 20  # the most payload of one message over this carrier

_HELLO, _REGISTER, _UNREGISTER, _SENDV, _NOTIFY, _RECEIVE, _BIND, _UNBIND = range(1, 9)
_ANSWER, _EVENT = 0x80, 0x81
_VERSION, _SLOT, _THEN_WAKE = b"\1\0\0\0", 16, 1
_MAX_FRAME = MAX_MESSAGE_BYTES + (64 << 10)
_RECEIVE_BYTES = MAX_MESSAGE_BYTES + _SLOT
_CHUNK_BYTES = 256 << 10  # read at a time; more requests are made when fewer bytes wait

_FRAME, _RESULT, _EVENT_BODY = map(struct.Struct, ("<IBI", "<i", "<IHHB"))
_SEND, _MESSAGE, _RING_DATA = map(struct.Struct, ("<IHHIHHII", "<IIHHI", "<IHHHHII"))

What = Literal["arrival", "space", "closed"]
_WHATS: tuple[What, ...] = ("arrival", "space", "closed")
Bytes = bytes | bytearray
Pieces = Sequence[Bytes]


class Address(NamedTuple):
    """One end of a message."""

    domain: int
    port: int


Place = Address | tuple[int, int]


class Message(NamedTuple):
    """What was in a ring. The sender is stamped by the host, `type` is its own word."""

    sender: Address
    type: int
    data: bytes


class Event(NamedTuple):
    """A message lies in an own ring, another's has room again, or one is gone."""

    what: What
    owner: int
    port: int
    partner: int


# What argo.h says of another's ring; SUFFICIENT: it has the room asked for.
Flags = enum.IntFlag("Flags", ["EXISTS", "SHARED", "EMPTY", "SUFFICIENT", "EMSGSIZE", "EBUSY"])


class Space(NamedTuple):
    """The answer to a question about another's ring."""

    to: Address
    flags: Flags
    max_message_bytes: int


class Rings:
    """A connection to the rings' board.

    :ivar domain: the own domain's id.
    """

    def __init__(self, stream: socket.socket, address: tuple[int, int] | str | None = None) -> None:
        """Speak over a stream, which is this object's from now on; connect it if told where."""
        self._stream, self._out, self._in = stream, bytearray(), bytearray()
        self._answers: dict[int, tuple[int, bytes] | None] = {}
        self._missing, self._tag = 0, 0
        # The same event twice says no more than once.
        self._events: dict[Event, None] = {}
        self._bell: tuple[select.epoll, int] | None = None
        try:
            if address is not None:
                stream.connect(address)
            stream.settimeout(0)
            self.domain = int.from_bytes(self._call(_HELLO, _VERSION)[1][:2], "little")
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, path: str | os.PathLike[str] | None = None) -> Self:
        """Connect to the board.

        :param path: on the host, the `rings.sock` of a guest; None in a guest.
        :raise OSError: there is none, or it is full.
        """
        if path is not None:
            return cls(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), os.fspath(path))
        host = (socket.VMADDR_CID_HOST, RINGS_PORT)
        for _ in range(4):  # the kernel's 2 s are too few on a busy host
            with contextlib.suppress(TimeoutError):
                return cls(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM), host)
        return cls(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM), host)

    def register(
        self,
        port: int,
        partner: int = ANY,
        *,
        size_bytes: int = 256 << 10,
        pages: int | None = None,
        flags: int = 0,
    ) -> None:
        """Make a ring for the messages of one domain, or a wildcard ring for all.

        :param size_bytes: a multiple of 16, 48 to 16 MiB; a message and 32 bytes must fit.
        :param pages: counted if left out.
        """
        for what in _WHATS:
            self._events.pop(Event(what, self.domain, port, partner), None)
        if pages is None:
            pages = -(-(size_bytes + 64) // 4096)
        self._call(_REGISTER, struct.pack("<IHHIII", port, partner, 0, size_bytes, pages, flags))

    def unregister(self, port: int, partner: int = ANY) -> None:
        """Take a ring away with what is in it."""
        self._call(_UNREGISTER, struct.pack("<IHH", port, partner, 0))

    def bind(self, port: int = 0) -> int:
        """Own a port, to send from it; 0 chooses one. A ring's port is bound already."""
        return int.from_bytes(self._call(_BIND, struct.pack("<I", port))[1], "little")

    def unbind(self, port: int) -> None:
        """Give a port back."""
        self._call(_UNBIND, struct.pack("<I", port))

    def sendv(self, source: Place, to: Place, pieces: Pieces, message_type: int = 0) -> int:
        """Send one message, all of it or nothing; returns its bytes.

        :param source: (domain, port): the own domain (or ANY) and an own port.
        :raise BlockingIOError: no room; an event "space" tells when to try again.
        """
        return self._call(_SENDV, *_send_body(source, to, pieces, message_type))[0]

    def send_many(self, messages: Iterable[tuple[int, Place, Pieces, int]]) -> list[int | OSError]:
        """Send messages (source port, to, pieces, type) without waiting for each one's answer.

        Returns for each, in order, its bytes or why it was refused. One that is refused
        does not keep later ones back.
        """
        requests = (
            self._frame(_SENDV, _send_body((ANY, port), to, pieces, message_type))
            for port, to, pieces, message_type in messages
        )
        return [_error(result) if result < 0 else result for result, _ in self._converse(requests)]

    def send(
        self, source_port: int, to: Place, data: Bytes, *, timeout_s: float | None = None
    ) -> int:
        """:meth:`sendv` of one piece, which waits where there is no room.

        :raise TimeoutError: there was none in time.
        """
        deadline = _deadline(timeout_s)

        def about_it(event: Event) -> bool:
            return event.what != "arrival" and (event.owner, event.port) == tuple(to)

        while True:
            try:
                return self.sendv((self.domain, source_port), to, [data])
            except BlockingIOError:
                # The place in the line is taken; the event may even be here already.
                self._take(about_it, deadline)

    def notify(self, questions: Iterable[tuple[Address, int]] = ()) -> list[Space]:
        """Wake those who wait for room in the own domain's rings; ask about those of others.

        :param questions: at most 256 of (address, bytes that shall be sent there). Where
            they do not fit now, an event "space" follows.
        """
        entries = [_RING_DATA.pack(at[1], at[0], 0, 0, 0, size, 0) for at, size in questions]
        _, body = self._call(_NOTIFY, struct.pack("<I", len(entries)), *entries)
        return [
            Space(Address(domain, port), Flags(flags), most)
            for port, domain, _, flags, _, _, most in _RING_DATA.iter_unpack(body)
        ]

    def query(self, to: Place, size_bytes: int = 0) -> Space:
        """Ask about one ring of another."""
        return self.notify([(Address(*to), size_bytes)])[0]

    def receive(
        self, port: int, partner: int = ANY, *, max_bytes: int = _RECEIVE_BYTES, wake: bool = True
    ) -> list[Message]:
        """Take the messages of an own ring that are there, as many as `max_bytes` hold.

        :param wake: as :meth:`notify` does, when the ring was found empty or was emptied.
        """
        request = struct.pack("<IHHII", port, partner, 0, max_bytes, _THEN_WAKE if wake else 0)
        return list(_messages(self._call(_RECEIVE, request)[1]))

    def messages(
        self, port: int, partner: int = ANY, *, timeout_s: float | None = None
    ) -> Iterator[Message]:
        """The messages of an own ring as they come, until the ring goes, or none for so long."""
        mine = tuple(Event(what, self.domain, port, partner) for what in _WHATS)
        while True:
            self._events.pop(mine[0], None)
            try:
                batch = self.receive(port, partner)
            except FileNotFoundError:
                if mine[2] not in self._events:
                    raise
                return
            yield from batch
            if not batch and self._take(mine.__contains__, _deadline(timeout_s)) == mine[2]:
                return

    def events(self) -> list[Event]:
        """What happened since the last time; never waits."""
        self._pump(0.0)
        found, self._events = list(self._events), {}
        self._ring_bell()
        return found

    def wait(self, timeout_s: float | None = None) -> list[Event]:
        """Wait for an event; returns all there are.

        :raise TimeoutError: none came in time.
        """
        return [self._take(lambda _: True, _deadline(timeout_s)), *self.events()]

    def fileno(self) -> int:
        """A descriptor for `select`: readable when :meth:`events` may have something."""
        if self._bell is None:
            bell, watch = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), select.epoll()
            watch.register(bell, select.EPOLLIN)
            watch.register(self._stream, select.EPOLLIN)
            self._bell = watch, bell
            self._ring_bell()
        return self._bell[0].fileno()

    def close(self) -> None:
        """Go, with all rings and ports. Idempotent."""
        self._stream.close()
        if self._bell is not None:
            self._bell[0].close()
            os.close(self._bell[1])
            self._bell = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, kind: int, *body: Bytes) -> tuple[int, bytes]:
        """One request and its answer: the number and what follows it."""
        (answer,) = self._converse(iter((self._frame(kind, body),)))
        if answer[0] < 0:
            raise _error(answer[0])
        return answer

    def _frame(self, kind: int, body: Pieces) -> bytes:
        """A request with the next tag, whose answer is awaited from now on."""
        self._tag = self._tag % 0xFFFFFFFF + 1
        length = 5 + sum(map(len, body))
        if length > _MAX_FRAME:
            self._answers[self._tag] = (-errno.EMSGSIZE, b"")  # no board reads so much
            return b""
        self._answers[self._tag] = None
        self._missing += 1
        return b"".join((_FRAME.pack(length, kind, self._tag), *body))

    def _converse(self, requests: Iterator[bytes]) -> list[tuple[int, bytes]]:
        """Send all requests while their answers come; returns these in the same order."""
        more = True
        try:
            while more or self._missing:
                while more and len(self._out) < _CHUNK_BYTES:
                    request = next(requests, None)
                    more = request is not None
                    self._out += request or b""
                if self._missing:
                    self._pump(None)
            return [answer for answer in self._answers.values() if answer is not None]
        finally:
            # After an error, an answer that still comes belongs to nobody.
            self._answers.clear()
            self._missing = 0
            self._ring_bell()

    def _take(self, wanted: Callable[[Event], bool], deadline: float | None) -> Event:
        """Wait for such an event and take it out of the others."""
        while True:
            for event in filter(wanted, self._events):
                del self._events[event]
                self._ring_bell()
                return event
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(errno.ETIMEDOUT, "no event in time")
            self._pump(left)

    def _pump(self, timeout_s: float | None) -> None:
        """Wait until bytes can come or go, and move those that can."""
        poll = select.poll()
        poll.register(self._stream, select.POLLIN | (select.POLLOUT if self._out else 0))
        for _, ready in poll.poll(None if timeout_s is None else max(0, timeout_s) * 1000):
            if ready & select.POLLOUT:
                with contextlib.suppress(BlockingIOError):
                    del self._out[: self._stream.send(self._out)]
            if ready & ~select.POLLOUT:
                received = self._stream.recv(_CHUNK_BYTES)
                if not received:
                    raise ConnectionResetError(errno.ECONNRESET, "the rings' board is gone")
                self._in += received
                self._read_frames()

    def _read_frames(self) -> None:
        """Put what is whole in `_in` where it belongs."""
        whole, view = 0, memoryview(self._in)
        with view:
            while len(self._in) - whole >= _FRAME.size:
                length, kind, tag = _FRAME.unpack_from(view, whole)
                if not _FRAME.size - 4 <= length <= _MAX_FRAME:
                    raise OSError(errno.EPROTO, "the rings' board sent a frame that is none")
                if len(self._in) - whole < 4 + length:
                    break
                self._read_frame(kind, tag, bytes(view[whole + _FRAME.size : whole + 4 + length]))
                whole += 4 + length
        del self._in[:whole]

    def _read_frame(self, kind: int, tag: int, body: bytes) -> None:
        if kind == _ANSWER and len(body) >= 4 and self._answers.get(tag, b"") is None:
            self._answers[tag] = (_RESULT.unpack_from(body)[0], body[_RESULT.size :])
            self._missing -= 1
        elif kind == _EVENT and len(body) >= _EVENT_BODY.size:
            port, partner, owner, what = _EVENT_BODY.unpack_from(body)
            if 1 <= what <= len(_WHATS):
                self._events[Event(_WHATS[what - 1], owner, port, partner)] = None

    def _ring_bell(self) -> None:
        """Make `fileno` readable where events wait that left the socket already."""
        if self._bell is not None:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell[1])
            if self._events:
                os.eventfd_write(self._bell[1], 1)


def _send_body(source: Place, to: Place, pieces: Pieces, message_type: int) -> Pieces:
    """The body of a sendv."""
    count = len(pieces)
    head = _SEND.pack(source[1], source[0], 0, to[1], to[0], 0, message_type, count)
    return head, struct.pack(f"<{count}I", *map(len, pieces)), *pieces


def _messages(slots: bytes) -> Iterator[Message]:
    """The messages of a ring's own layout: header, payload, padding to 16."""
    offset = 0
    while offset + _MESSAGE.size <= len(slots):
        length, port, domain, _, message_type = _MESSAGE.unpack_from(slots, offset)
        if not _SLOT <= length <= len(slots) - offset:
            raise OSError(errno.EPROTO, "the rings' board sent a message that is none")
        yield Message(Address(domain, port), message_type, slots[offset + _SLOT : offset + length])
        offset += -(-length // _SLOT) * _SLOT


def _deadline(timeout_s: float | None) -> float | None:
    """When that time will be over."""
    return None if timeout_s is None else time.monotonic() + timeout_s


def _error(result: int) -> OSError:
    """The error that a negative answer means, of the class that Python has for it."""
    return OSError(-result, os.strerror(-result))
