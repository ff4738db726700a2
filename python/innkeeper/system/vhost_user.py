# SPDX-License-Identifier: Apache-2.0
"""vhost-user's frames on a Unix stream: a header, a payload, descriptors beside them.

QEMU's docs/interop/vhost-user.rst describes them. What arrives is bounded: a peer that
says more than the protocol can is cut off.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from innkeeper.errors import ProtocolError

_HEADER = struct.Struct("=III")
_VERSION, _REPLY, _NEED_REPLY = 0x1, 0x4, 0x8
# The longest payload is a table of 8 regions of memory, each with its descriptor.
_PAYLOAD_MAXIMUM = 4096
_DESCRIPTORS_MAXIMUM = 8


@dataclass
class Message:
    """One frame.

    :ivar fds: received descriptors, which are the taker's to close.
    """

    request: int
    payload: bytes
    needs_reply: bool = False
    fds: list[int] = field(default_factory=list)

    def number(self) -> int:
        """The payload as the one number that most messages carry.

        :raise ProtocolError: it is something else.
        """
        if len(self.payload) != 8:
            raise ProtocolError(f"vhost-user message {self.request} of {len(self.payload)} bytes")
        return int.from_bytes(self.payload, "little")

    def close(self) -> None:
        """Close the descriptors that nobody took."""
        close_all(self.fds)
        self.fds = []


class Channel:
    """Frames over a connected stream, which it owns."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self._sock = sock

    async def receive(self) -> Message | None:
        """The next frame; None when the peer is gone.

        :raise ProtocolError: it is none.
        """
        fds: list[int] = []
        message: Message | None = None
        try:
            message = await self._receive(fds)
        finally:
            if message is None:
                close_all(fds)
        return message

    def send(
        self,
        request: int,
        payload: bytes = b"",
        *,
        fds: Sequence[int] = (),
        needs_reply: bool = False,
        reply: bool = False,
    ) -> None:
        """Send a frame; the descriptors stay the caller's.

        :raise OSError: the peer is gone, or reads nothing.
        """
        flags = _VERSION | (_REPLY if reply else 0) | (_NEED_REPLY if needs_reply else 0)
        data = _HEADER.pack(request, flags, len(payload)) + payload
        if socket.send_fds(self._sock, [data], list(fds)) != len(data):
            raise BlockingIOError("the peer reads nothing")

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._sock.close()

    async def _receive(self, fds: list[int]) -> Message | None:
        head = await self._read(_HEADER.size, fds)
        if head is None:
            return None
        request, flags, size = _HEADER.unpack(head)
        if size > _PAYLOAD_MAXIMUM or flags & 3 != _VERSION:
            raise ProtocolError(f"vhost-user message {request} of {size} bytes, flags {flags}")
        payload = await self._read(size, fds) if size else b""
        if payload is None:
            return None
        return Message(request, payload, bool(flags & _NEED_REPLY), fds)

    async def _read(self, size: int, fds: list[int]) -> bytes | None:
        """So many bytes, None at the end; descriptors that come with them go into `fds`."""
        data = b""
        while len(data) < size:
            try:
                part, received, _, _ = socket.recv_fds(
                    self._sock, size - len(data), _DESCRIPTORS_MAXIMUM
                )
            except BlockingIOError:
                await self._readable()
                continue
            except ConnectionError:
                return None
            fds += received
            if len(fds) > _DESCRIPTORS_MAXIMUM:
                raise ProtocolError("a vhost-user message with too many descriptors")
            if not part:
                return None
            data += part
        return data

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        fd = self._sock.fileno()
        loop.add_reader(fd, lambda: None if ready.done() else ready.set_result(None))
        try:
            await ready
        finally:
            loop.remove_reader(fd)


def close_all(fds: Sequence[int]) -> None:
    """Close these descriptors."""
    for fd in fds:
        os.close(fd)


def signal_event(fd: int) -> None:
    """Add one to an eventfd(2)."""
    os.write(fd, (1).to_bytes(8, "little"))
