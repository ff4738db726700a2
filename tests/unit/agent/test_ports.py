# SPDX-License-Identifier: Apache-2.0
"""What an agent says of ports, and connections to them, against agents that misbehave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from innkeeper.agent.frames import encode_frame
from innkeeper.agent.pb import announce_pb2, forward_pb2
from innkeeper.agent.ports import PORTS_LIMIT, ListeningPort, open_forward, parse_ports
from innkeeper.errors import GuestError, ProtocolError
from innkeeper.system.sockets import StreamSocket, listen_unix


def port(number: int, address: str = "127.0.0.1", protocol: int = 1) -> announce_pb2.ListeningPort:
    return announce_pb2.ListeningPort(
        protocol=protocol,  # type: ignore[arg-type]
        address=address,
        port=number,
    )


def test_good_ports() -> None:
    # What the agent says of loopback is not believed but looked at.
    assert parse_ports([port(80), port(53, "0.0.0.0", 2), port(9, "::ffff:127.0.0.1")]) == (
        ListeningPort("tcp", 80, "127.0.0.1", True),
        ListeningPort("udp", 53, "0.0.0.0", False),
        ListeningPort("tcp", 9, str(ip_address("::ffff:127.0.0.1")), True),
    )


@pytest.mark.parametrize(
    "bad",
    [
        [port(0)],
        [port(65536)],
        [port(1, protocol=0)],
        [port(1, protocol=9)],
        [port(1, "localhost")],
        [port(1, "x" * 5000)],
        [port(1)] * (PORTS_LIMIT + 1),
    ],
)
def test_impossible_ports(bad: list[announce_pb2.ListeningPort]) -> None:
    with pytest.raises(ProtocolError):
        parse_ports(bad)


@contextmanager
def device(path: Path, answer: Callable[[StreamSocket], None]) -> Iterator[None]:
    """A device whose agent answers the request for port 9002 this way."""
    listener = listen_unix(path)

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            assert sock.recv(13) == b"CONNECT 9002\n"
            sock.sendall(b"OK 1\n")
            assert len(sock.recv(256)) > 4
            answer(sock)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        listener.close()


def answer(number: int) -> bytes:
    response = forward_pb2.ForwardResponse(error_number=number)
    return encode_frame(response.SerializeToString())


def test_what_follows_the_answer_is_the_stream(tmp_path: Path) -> None:
    with (
        device(tmp_path / "s", lambda sock: sock.sendall(answer(0) + b"first")),
        open_forward(tmp_path / "s", 80, timeout_s=10) as sock,
    ):
        assert sock.recv(64) == b"first"
        assert sock.gettimeout() is None


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (answer(111), GuestError),
        (answer(-5), GuestError),
        (b"", GuestError),
        (b"\xff\xff\xff\xff", ProtocolError),
        (b"\x01\0\0\0\xff", ProtocolError),
        (b"\x05\0", GuestError),
    ],
)
def test_refusals_and_nonsense(tmp_path: Path, said: bytes, kind: type[Exception]) -> None:
    with device(tmp_path / "s", lambda sock: sock.sendall(said)), pytest.raises(kind):
        open_forward(tmp_path / "s", 80, timeout_s=10)
