# SPDX-License-Identifier: Apache-2.0
"""Ports of the guest: which are listened on, and connections to them (`proto/forward.proto`)."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Protocol

from google.protobuf.message import DecodeError

from innkeeper.agent.connect import connect_port
from innkeeper.agent.frames import encode_frame
from innkeeper.agent.pb import forward_pb2
from innkeeper.errors import GuestError, ProtocolError
from innkeeper.system.pump import StreamSocket

# The agent's service.
FORWARD_PORT = 9002
# The agent tells of no more.
PORTS_LIMIT = 1024
_ANSWER_LIMIT = 256
_ADDRESS_LIMIT = 45
_HEADER = struct.Struct("<I")

# Numbers of PortProtocol in announce.proto and maitred.proto.
_PROTOCOLS: dict[int, Literal["tcp", "udp"]] = {1: "tcp", 2: "udp"}


@dataclass(frozen=True, order=True)
class ListeningPort:
    """An address of the guest that a program of it listens on.

    :ivar address: unspecified means all.
    :ivar loopback: only the guest itself reaches it.
    """

    protocol: Literal["tcp", "udp"]
    port: int
    address: str
    loopback: bool


class _Message(Protocol):
    """ListeningPort of either proto file."""

    @property
    def protocol(self) -> int: ...
    @property
    def address(self) -> str: ...
    @property
    def port(self) -> int: ...


def parse_ports(messages: Iterable[_Message]) -> tuple[ListeningPort, ...]:
    """What an agent says that is listened on, checked.

    :raise ProtocolError: it is nothing that can be listened on, or too much of it.
    """
    found: list[ListeningPort] = []
    for message in messages:
        protocol = _PROTOCOLS.get(message.protocol)
        if protocol is None or not 0 < message.port < 65536 or len(found) >= PORTS_LIMIT:
            raise ProtocolError("the guest's agent told of impossible ports", stage="ports")
        try:
            address = ip_address(message.address[:_ADDRESS_LIMIT])
        except ValueError as exc:
            raise ProtocolError("the guest's agent told of no address", stage="ports") from exc
        mapped = getattr(address, "ipv4_mapped", None) or address
        found.append(ListeningPort(protocol, message.port, str(address), mapped.is_loopback))
    return tuple(found)


def forward_request(port: int, address: str = "") -> bytes:
    """The frame that asks the agent for a connection to a TCP port of its guest."""
    request = forward_pb2.ForwardRequest(
        protocol=forward_pb2.PROTOCOL_TCP, address=address, port=port
    )
    return encode_frame(request.SerializeToString(), max_bytes=_ANSWER_LIMIT)


def answer_length(header: bytes) -> int:
    """How many bytes of answer follow its first four.

    :raise ProtocolError: too many.
    """
    (length,) = _HEADER.unpack(header)
    if length > _ANSWER_LIMIT:
        raise ProtocolError(f"the guest announced an answer of {length} bytes", stage="forward")
    return int(length)


def check_answer(payload: bytes, port: int) -> None:
    """Nothing, where the agent has made the connection.

    :raise GuestError: it could not.
    :raise ProtocolError: the answer cannot be read.
    """
    try:
        number = forward_pb2.ForwardResponse.FromString(payload).error_number
    except DecodeError as exc:
        raise ProtocolError("the guest's answer cannot be read", stage="forward") from exc
    if number:
        why = os.strerror(number) if 0 < number < 4096 else f"error {number}"
        raise GuestError(f"no connection to port {port} in the guest: {why}", stage="forward")


def open_forward(
    vsock_path: Path, port: int, *, address: str = "", timeout_s: float = 10.0
) -> StreamSocket:
    """A stream to a TCP port of the guest, also without any network; the caller closes it.

    :param address: one of the guest's own; loopback unless told.
    :raise GuestError: there is no guest, or nobody listens there.
    :raise ProtocolError: the answer is none.
    """
    deadline = time.monotonic() + timeout_s
    sock = connect_port(vsock_path, FORWARD_PORT, timeout_s=timeout_s)
    try:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        sock.sendall(forward_request(port, address))
        length = answer_length(_read_exactly(sock, _HEADER.size, deadline))
        check_answer(_read_exactly(sock, length, deadline), port)
        sock.settimeout(None)
    except TimeoutError as exc:
        sock.close()
        raise GuestError(
            f"the guest did not connect to its port {port} within {timeout_s:g} s", stage="forward"
        ) from exc
    except OSError as exc:
        sock.close()
        raise GuestError(f"the guest gave up port {port}: {exc}", stage="forward") from exc
    except BaseException:
        sock.close()
        raise
    return sock


def _read_exactly(sock: StreamSocket, count: int, deadline: float) -> bytes:
    data = b""
    while len(data) < count:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        sock.settimeout(left_s)
        piece = sock.recv(count - len(data))
        if not piece:
            raise ConnectionError("it closed the connection")
        data += piece
    return data
