# SPDX-License-Identifier: Apache-2.0
"""Speaks vhost-user with QEMU in a share server's place, and with the server in QEMU's.

::

    QEMU <──messages──> StandIn <──the same, or all of them anew──> virtiofsd
    guest's queues <────────── memory and eventfds, directly ─────────> virtiofsd

QEMU ends its device for good when its peer goes away, and cannot start without one. So
its peer is the stand-in, which never does: it answers, remembers what QEMU set, and
tells it to whichever server is there. Without one the guest's requests wait in their
queues; a new one goes on where the last one was killed, since both servers answer
requests in their order (virtio 1.2, 2.7; `--thread-pool-size`).

The requests themselves do not come by here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from dataclasses import dataclass, field

from innkeeper.errors import HostError, ProtocolError
from innkeeper.system.sockets import StreamSocket
from innkeeper.system.vhost_user import Channel, Message, close_all, signal_event

# QEMU's docs/interop/vhost-user.rst, "Front-end message types".
GET_FEATURES, SET_FEATURES, SET_OWNER = 1, 2, 3
SET_MEM_TABLE = 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM = 15, 16, 17
SET_VRING_ENABLE = 18

# virtio 1.x, vhost-user's protocol features, event indexes, indirect descriptors: what
# both servers have. VHOST_USER_PROTOCOL_F_MQ and _REPLY_ACK.
FEATURES = 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28
PROTOCOL_FEATURES = 1 << 0 | 1 << 3
# One for urgent requests, and one for others.
QUEUES = 2

_NO_DESCRIPTOR = 0x100
_REGION = struct.Struct("=QQQQ")
_STATE = struct.Struct("=II")
_ADDRESSES = struct.Struct("=IIQQQQ")

# A server that does not answer in this time is taken for lost: QEMU, and with it the
# guest's CPUs, wait for the answer.
_ANSWER_LIMIT_S = 10.0


@dataclass
class _Queue:
    """What QEMU set of a queue."""

    number: bytes = b""
    addresses: bytes = b""
    base: int = 0
    enabled: bytes = b""
    fds: dict[int, int] = field(default_factory=dict)

    @property
    def runs(self) -> bool:
        return SET_VRING_KICK in self.fds and bool(self.addresses)

    def put(self, kind: int, fd: int | None) -> None:
        old = self.fds.pop(kind, None)
        if old is not None:
            os.close(old)
        if fd is not None:
            self.fds[kind] = fd


class StandIn:
    """Our ends of both connections, and what QEMU set. Made with QEMU's, which it owns."""

    def __init__(self, qemu: StreamSocket) -> None:
        self._qemu = Channel(qemu)
        self._server: Channel | None = None
        self._settings: dict[int, bytes] = {}
        self._memory: tuple[bytes, list[int]] = (b"", [])
        self._queues = [_Queue() for _ in range(QUEUES)]
        # A server is told everything before it hears the next.
        self._turn = asyncio.Lock()
        self._task = asyncio.ensure_future(self._serve())

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done when QEMU hung up, or spoke nonsense."""
        return self._task

    async def attach(self, sock: StreamSocket) -> None:
        """Let a server that was just started go on with the guest's queues.

        :param sock: connected to it; owned from here on.
        :raise HostError: it ended, does not answer or cannot do what it must.
        """
        async with self._turn:
            self.detach()
            server = Channel(sock)
            try:
                async with asyncio.timeout(_ANSWER_LIMIT_S):
                    await self._introduce(server)
                    await self._retell(server)
            except (OSError, ProtocolError) as exc:
                server.close()
                raise HostError(
                    f"the share server did not take its task: {str(exc) or 'no answer'}",
                    stage="shares",
                ) from exc
            except BaseException:
                server.close()
                raise
            self._server = server

    def detach(self) -> None:
        """Go on without a server. Idempotent."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def close(self) -> None:
        """Hang up on both sides. Idempotent."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.detach()
        self._qemu.close()
        close_all(self._memory[1])
        self._memory = (b"", [])
        for queue in self._queues:
            for kind in tuple(queue.fds):
                queue.put(kind, None)

    async def _serve(self) -> None:
        # Bytes that are no protocol are QEMU's end of it: the guest then has no shares.
        with contextlib.suppress(OSError, ProtocolError):
            while (message := await self._qemu.receive()) is not None:
                try:
                    async with self._turn:
                        answer = await self._take(message)
                finally:
                    message.close()
                if answer is not None:
                    self._qemu.send(message.request, answer, reply=True)
                elif message.needs_reply:
                    self._qemu.send(message.request, bytes(8), reply=True)

    async def _take(self, message: Message) -> bytes | None:
        """Do what QEMU says; returns the answer, where the message has one of its own."""
        request = message.request
        known = {
            GET_FEATURES: FEATURES,
            GET_PROTOCOL_FEATURES: PROTOCOL_FEATURES,
            GET_QUEUE_NUM: QUEUES,
        }
        if request in known:
            return known[request].to_bytes(8, "little")
        if request == GET_VRING_BASE:
            return await self._stop_queue(message)
        fds = list(message.fds)
        if request == SET_MEM_TABLE:
            close_all(self._memory[1])
            self._memory = (message.payload, fds)
            message.fds = []
        elif request in (SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR):
            value = message.number()
            fd = None if value & _NO_DESCRIPTOR or not fds else fds[0]
            self._queue(value & 0xFF).put(request, fd)
            message.fds = message.fds[1:] if fd is not None else message.fds
        else:
            self._remember(request, message.payload)
            if request in (SET_OWNER, SET_PROTOCOL_FEATURES):
                # Between us and each side.
                return None
        await self._pass_on(request, message.payload, fds)
        return None

    def _remember(self, request: int, payload: bytes) -> None:
        if request in (SET_FEATURES, SET_OWNER, SET_PROTOCOL_FEATURES):
            self._settings[request] = payload
            return
        sizes = {SET_VRING_ADDR: _ADDRESSES.size}
        kinds = (SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_ENABLE)
        if request not in kinds or len(payload) != sizes.get(request, _STATE.size):
            raise ProtocolError(f"vhost-user message {request} of {len(payload)} bytes")
        index, value = _STATE.unpack_from(payload)
        queue = self._queue(index)
        if request == SET_VRING_NUM:
            queue.number = payload
        elif request == SET_VRING_ADDR:
            queue.addresses = payload
        elif request == SET_VRING_BASE:
            queue.base = value & 0xFFFF
        else:
            queue.enabled = payload

    async def _stop_queue(self, message: Message) -> bytes:
        if len(message.payload) != _STATE.size:
            raise ProtocolError("GET_VRING_BASE without a queue")
        index, _ = _STATE.unpack(message.payload)
        queue = self._queue(index)
        base = self._next(queue)
        if self._server is not None:
            answer = await self._ask_server(GET_VRING_BASE, message.payload)
            if answer is not None and len(answer) == _STATE.size:
                base = _STATE.unpack(answer)[1]
        queue.base = base
        queue.put(SET_VRING_KICK, None)
        return _STATE.pack(index, base)

    def _queue(self, index: int) -> _Queue:
        if index >= QUEUES:
            raise ProtocolError(f"no queue {index}")
        return self._queues[index]

    def _next(self, queue: _Queue) -> int:
        """Where a server has to begin: after the last request that was answered."""
        if not queue.runs:
            return queue.base
        _, _, _, used, _, _ = _ADDRESSES.unpack(queue.addresses)
        payload, fds = self._memory
        for number, fd in enumerate(fds):
            at = _STATE.size + number * _REGION.size
            if len(payload) < at + _REGION.size:
                break
            _, size, address, offset = _REGION.unpack_from(payload, at)
            if address <= used and used + 4 <= address + size:
                # struct vring_used: flags, then idx.
                return int.from_bytes(os.pread(fd, 2, offset + used - address + 2), "little")
        return queue.base

    async def _introduce(self, server: Channel) -> None:
        server.send(GET_FEATURES)
        offered = (await _answer(server, GET_FEATURES)).number()
        server.send(GET_PROTOCOL_FEATURES)
        protocol = (await _answer(server, GET_PROTOCOL_FEATURES)).number()
        if FEATURES & ~offered or PROTOCOL_FEATURES & ~protocol:
            raise ProtocolError(f"it offers {offered:#x} and {protocol:#x}")
        server.send(SET_PROTOCOL_FEATURES, PROTOCOL_FEATURES.to_bytes(8, "little"))
        server.send(SET_OWNER)

    async def _retell(self, server: Channel) -> None:
        """Everything that QEMU set so far, in the order that QEMU itself has."""
        if SET_FEATURES in self._settings:
            await _tell(server, SET_FEATURES, self._settings[SET_FEATURES])
        if self._memory[0]:
            await _tell(server, SET_MEM_TABLE, *self._memory)
        for index, queue in enumerate(self._queues):
            if not queue.addresses:
                continue
            await _tell(server, SET_VRING_NUM, queue.number)
            await _tell(server, SET_VRING_BASE, _STATE.pack(index, self._next(queue)))
            await _tell(server, SET_VRING_ADDR, queue.addresses)
            for kind in (SET_VRING_CALL, SET_VRING_ERR, SET_VRING_KICK):
                if kind in queue.fds:
                    word = index.to_bytes(8, "little")
                    await _tell(server, kind, word, [queue.fds[kind]])
            if queue.enabled:
                await _tell(server, SET_VRING_ENABLE, queue.enabled)
            if queue.runs:
                # What waits there, and answers of which the guest was not told any more.
                for kind in (SET_VRING_KICK, SET_VRING_CALL):
                    if kind in queue.fds:
                        signal_event(queue.fds[kind])

    async def _pass_on(self, request: int, payload: bytes, fds: list[int]) -> None:
        if self._server is not None:
            await self._ask_server(request, payload, fds)

    async def _ask_server(
        self, request: int, payload: bytes, fds: list[int] | None = None
    ) -> bytes | None:
        """The server's answer. None, and no server from here on, where it is lost."""
        assert self._server is not None
        try:
            async with asyncio.timeout(_ANSWER_LIMIT_S):
                return await _tell(self._server, request, payload, fds)
        except (OSError, ProtocolError):
            # Hanging up ends one that still lives; its end is then seen as any other.
            self.detach()
            return None


async def _tell(
    server: Channel, request: int, payload: bytes, fds: list[int] | None = None
) -> bytes:
    """Send a message and wait until it was taken.

    :raise ProtocolError: it was refused.
    """
    own_answer = request == GET_VRING_BASE
    server.send(request, payload, fds=fds or (), needs_reply=not own_answer)
    answer = await _answer(server, request)
    if not own_answer and answer.number() != 0:
        raise ProtocolError(f"it refused message {request}")
    return answer.payload


async def _answer(server: Channel, request: int) -> Message:
    message = await server.receive()
    if message is None:
        raise ConnectionResetError("it hung up")
    message.close()
    if message.request != request:
        raise ProtocolError(f"it answered message {request} with {message.request}")
    return message
