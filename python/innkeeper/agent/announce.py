# SPDX-License-Identifier: Apache-2.0
"""The host's side of the announcement: the agent says that it is ready, and stays connected.

Which guest speaks is known from the socket; what it says is only told on,
bounded and cleaned. Garbage costs the sender its connection and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from google.protobuf.message import DecodeError

from innkeeper.agent.disks import DiskReport, DiskSpace, parse_reports, parse_spaces
from innkeeper.agent.frames import MESSAGE_LIMIT, FrameDecoder, encode_frame
from innkeeper.agent.pb import announce_pb2
from innkeeper.agent.ports import ListeningPort, parse_ports
from innkeeper.agent.text import clean_text
from innkeeper.errors import ProtocolError
from innkeeper.system.pump import StreamSocket

# A connection that has not said Hello by then is dropped.
_HELLO_TIMEOUT_S = 5.0
# Beside the agent's own connection, so many may be on their way to a Hello.
_CONNECTIONS_LIMIT = 4
# "Said once per cause": more on one connection is noise.
_FAILURES_LIMIT = 64


@dataclass(frozen=True)
class Hello:
    """What the agent says of itself; nothing of it is proof.

    :ivar started_ns: time since the guest's boot when the agent began.
    :ivar ready_ns: the same, when it was ready.
    :ivar disks: how its disks were found.
    """

    agent_version: str
    kernel_release: str
    is_init: bool
    boot_id: str
    started_ns: int
    ready_ns: int
    disks: tuple[DiskReport, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Something that the agent could not do."""

    what: str
    detail: str


def _ignore(*_args: object) -> None:
    """The callback of somebody who does not care."""


class AnnounceServer:
    """Serves the announcement on a bound and listening socket, which it then owns.

    A later Hello, on a new connection, takes the place of an earlier one: the
    agent was restarted, or the guest restored from a snapshot. The agent counts
    as lost when its connection has been closed for `grace_s` without that.

    :param on_ports: called with all ports that are listened on, after every change;
        without it the guest does not look.
    :param on_disks: called with how full all disks are, after every change; likewise.
    :param relay_logs: the guest is to send its log to host port 9999.
    :ivar lost: done once the agent is lost.
    :ivar failures: what the agent could not do, over all connections.
    """

    def __init__(
        self,
        sock: StreamSocket,
        *,
        grace_s: float = 0.0,
        on_hello: Callable[[Hello], None] = _ignore,
        on_lost: Callable[[], None] = _ignore,
        on_failure: Callable[[Failure], None] = _ignore,
        on_ports: Callable[[tuple[ListeningPort, ...]], None] | None = None,
        on_disks: Callable[[tuple[DiskSpace, ...]], None] | None = None,
        relay_logs: bool = False,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._sock = sock
        self._grace_s = grace_s
        self._on_hello = on_hello
        self._on_lost = on_lost
        self._on_failure = on_failure
        self._on_ports = on_ports
        self._on_disks = on_disks
        self._relay_logs = relay_logs
        self._wall_clock_ns = wall_clock_ns
        self._hello: asyncio.Future[Hello] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.failures: list[Failure] = []
        self._serving: asyncio.Task[asyncio.AbstractServer] | None = None
        self._current: _Connection | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._zone: announce_pb2.HostMessage | None = None
        self._watched = b""
        self._names = b""
        self._connections: list[_Connection] = []

    def start(self) -> None:
        """Begin to accept connections."""
        serving = self._loop.create_unix_server(lambda: _Connection(self), sock=self._sock)
        self._serving = self._loop.create_task(serving)

    async def hello(self) -> Hello:
        """The first Hello, once it is there."""
        return await asyncio.shield(self._hello)

    def say_clock(self) -> None:
        """Tell the agent the time, as after a pause. Without an agent, nothing happens."""
        if self._current is not None:
            self._current.send(self._welcome())

    def set_zone(self, name: str, tzif: bytes) -> None:
        """The guest's time zone from now on: told to the agent now, and after each Hello.

        :param tzif: a TZif file, at most as large as a frame holds.
        """
        zone = announce_pb2.Zone(name=name, tzif=tzif)
        self._zone = announce_pb2.HostMessage(zone=zone)
        if self._current is not None:
            self._current.send(encode_frame(self._zone.SerializeToString()))

    def set_watched(self, frame: bytes) -> None:
        """Which shares are watched from now on (`innkeeper.agent.changes`): told as the zone is."""
        self._watched = frame
        self.send(frame)

    def set_names(self, frame: bytes) -> None:
        """What others are called from now on (`innkeeper.keeper.names`): told as the zone is."""
        if frame != self._names:
            self._names = frame
            self.send(frame)

    def send(self, frame: bytes) -> None:
        """Send a frame to the agent, if there is one."""
        if self._current is not None:
            self._current.send(frame)

    def unsent_bytes(self) -> int:
        """What the agent has not taken yet."""
        return self._current.unsent_bytes() if self._current is not None else 0

    def ask_shutdown(self) -> bool:
        """Ask the agent to end the guest in order; False when there is no agent to ask."""
        if self._current is None:
            return False
        asked = announce_pb2.HostMessage(shutdown=announce_pb2.Shutdown())
        self._current.send(encode_frame(asked.SerializeToString()))
        return True

    async def close(self) -> None:
        """Stop serving and close every connection. Idempotent."""
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        self._current = None  # so that its end is no loss
        if self._serving is not None:
            serving, self._serving = self._serving, None
            (await serving).close()
        for connection in list(self._connections):
            connection.drop()
        self._sock.close()
        self._hello.cancel()
        self.lost.cancel()
        # The transports close their sockets in the loop's next round.
        await asyncio.sleep(0)

    # Called by the connections

    def opened(self, connection: _Connection) -> None:
        """A new connection; with too many waiting for their Hello, the eldest goes."""
        self._connections.append(connection)
        waiting = [other for other in self._connections if other is not self._current]
        if len(waiting) > _CONNECTIONS_LIMIT:
            waiting[0].drop()

    def greeted(self, connection: _Connection, hello: Hello) -> bytes:
        """A Hello came; returns the answer. An earlier connection ends."""
        previous, self._current = self._current, connection
        if previous is not None:
            previous.drop()
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        if not self._hello.done():
            self._hello.set_result(hello)
        self._on_hello(hello)
        return self._welcome() + self._requests()

    def _welcome(self) -> bytes:
        welcome = announce_pb2.Welcome(wall_clock_ns=self._wall_clock_ns())
        return encode_frame(announce_pb2.HostMessage(welcome=welcome).SerializeToString())

    def _requests(self) -> bytes:
        """What the agent is asked for, in frames."""
        asked: list[announce_pb2.HostMessage] = []
        if self._zone is not None:
            asked.append(self._zone)
        if self._on_ports is not None:
            asked.append(announce_pb2.HostMessage(watch_ports=announce_pb2.WatchPorts()))
        if self._on_disks is not None:
            asked.append(announce_pb2.HostMessage(watch_disks=announce_pb2.WatchDisks()))
        if self._relay_logs:
            asked.append(announce_pb2.HostMessage(relay_logs=announce_pb2.RelayLogs()))
        frames = b"".join(encode_frame(message.SerializeToString()) for message in asked)
        # Names first: a session that waits for its turn wants them.
        return self._names + frames + self._watched

    def listening(self, connection: _Connection, ports: tuple[ListeningPort, ...]) -> None:
        """The agent told what is listened on.

        :raise ProtocolError: nobody asked.
        """
        if self._on_ports is None:
            raise ProtocolError("the agent told of ports unasked", stage="announce")
        if connection is self._current:
            self._on_ports(ports)

    def filled(self, connection: _Connection, disks: tuple[DiskSpace, ...]) -> None:
        """The agent told how full its disks are.

        :raise ProtocolError: nobody asked.
        """
        if self._on_disks is None:
            raise ProtocolError("the agent told of disks unasked", stage="announce")
        if connection is self._current:
            self._on_disks(disks)

    def failed(self, failure: Failure) -> None:
        """The agent told of a failure."""
        if len(self.failures) < _FAILURES_LIMIT:
            self.failures.append(failure)
            self._on_failure(failure)

    def closed(self, connection: _Connection) -> None:
        """A connection is over."""
        self._connections.remove(connection)
        if connection is self._current:
            self._current = None
            self._grace = self._loop.call_later(self._grace_s, self._lose)

    def _lose(self) -> None:
        self._grace = None
        if not self.lost.done():
            self.lost.set_result(None)
        self._on_lost()


class _Connection(asyncio.Protocol):
    """One connection: a Hello first, then Failures, Ports and Disks."""

    def __init__(self, server: AnnounceServer) -> None:
        self._server = server
        self._decoder = FrameDecoder(MESSAGE_LIMIT)
        self._transport: asyncio.Transport | None = None
        self._hello_timer: asyncio.TimerHandle | None = None
        self._greeted = False
        # Not the transport's own state: what an agent said before it died counts.
        self._dropped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        loop = asyncio.get_running_loop()
        self._hello_timer = loop.call_later(_HELLO_TIMEOUT_S, self.drop)
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._decoder.feed(data):
                self._message(payload)
        except ProtocolError:
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._stop_timer()
        self._transport = None
        self._server.closed(self)

    def send(self, frame: bytes) -> None:
        """Send a frame to the agent; one that is gone does not hear it."""
        if self._transport is not None:
            self._transport.write(frame)

    def unsent_bytes(self) -> int:
        """What waits for the agent to read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def drop(self) -> None:
        """Close the connection now."""
        self._dropped = True
        if self._transport is not None:
            self._transport.abort()

    def _stop_timer(self) -> None:
        if self._hello_timer is not None:
            self._hello_timer.cancel()
            self._hello_timer = None

    def _message(self, payload: bytes) -> None:
        if self._transport is None or self._dropped:
            return
        try:
            message = announce_pb2.AgentMessage.FromString(payload)
        except DecodeError as exc:
            raise ProtocolError("the agent sent what cannot be read", stage="announce") from exc
        kind = message.WhichOneof("msg")
        if kind == "hello" and not self._greeted:
            self._greeted = True
            self._stop_timer()
            self._transport.write(self._server.greeted(self, _hello(message.hello)))
        elif kind == "failure" and self._greeted:
            failure = message.failure
            self._server.failed(Failure(clean_text(failure.what), clean_text(failure.detail)))
        elif kind == "ports" and self._greeted:
            self._server.listening(self, parse_ports(message.ports.ports))
        elif kind == "disks" and self._greeted:
            self._server.filled(self, parse_spaces(message.disks.disks))
        else:
            raise ProtocolError("the agent sent a message out of turn", stage="announce")


def _hello(message: announce_pb2.Hello) -> Hello:
    return Hello(
        agent_version=clean_text(message.agent_version, 64),
        kernel_release=clean_text(message.kernel_release, 128),
        is_init=message.is_init,
        boot_id=clean_text(message.boot_id, 64),
        started_ns=message.started_ns,
        ready_ns=message.ready_ns,
        disks=parse_reports(message.disks),
    )
