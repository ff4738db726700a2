# SPDX-License-Identifier: Apache-2.0
"""Ports of a guest without a network, on the host's loopback."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from innkeeper import Machine
from innkeeper.agent.control import ControlClient
from innkeeper.agent.ports import open_forward
from innkeeper.errors import GuestError
from innkeeper.testing.plugin import VmFactory

Eventually = Callable[[Callable[[], bool]], None]

SIZE = 10 << 20
LIMIT_S = 60.0


pytestmark = pytest.mark.inn(forward="auto")


@pytest.fixture
def guest(vm: Machine) -> Iterator[Machine]:
    """The guest, whose ports are led to without a network; its servers end with the test."""
    yield vm
    vm.exec(["killall", "-q", "httpd", "nc"])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)


def reachable(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return False
    return True


def get(port: int) -> bytes:
    with connect(port) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(1 << 16), b""))


def serve_page(guest: Machine, address: str) -> None:
    script = f"mkdir -p /www; echo hello > /www/index.html; httpd -h /www -p {address}"
    guest.exec(["sh", "-c", script], check=True)


def serve_echo(guest: Machine, port: int) -> None:
    guest.exec(["sh", "-c", f"nc -ll -p {port} -e cat >/dev/null 2>&1 &"], check=True)


def keeper_log(guest: Machine) -> str:
    return "\n".join(line.text for line in guest.logs("keeper"))


def test_a_loopback_listener_comes_and_goes(guest: Machine, eventually: Eventually) -> None:
    port = free_port()
    assert not reachable(port)
    serve_page(guest, f"127.0.0.1:{port}")
    serve_page(guest, "80")
    eventually(lambda: reachable(port))
    assert b"hello" in get(port)
    assert b"hello" in get(port)
    guest.exec(["killall", "httpd"], check=True)
    eventually(lambda: not reachable(port))
    # Ports under 1024 are the host's own.
    log = keeper_log(guest)
    assert f"port {port} of the guest is 127.0.0.1:{port} here" in log
    assert "port 80 " not in log


def test_a_port_that_is_taken_gets_the_next_one(guest: Machine, eventually: Eventually) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        serve_page(guest, str(port))
        said = re.compile(rf"port {port} of the guest is 127\.0\.0\.1:(\d+) here \({port} is taken")
        eventually(lambda: said.search(keeper_log(guest)) is not None)
        match = said.search(keeper_log(guest))
        assert match is not None
        other = int(match[1])
        assert other > port
        assert b"hello" in get(other)


def test_ten_mebibytes_both_ways_and_each_end_of_file(
    guest: Machine, eventually: Eventually
) -> None:
    port = free_port()
    serve_echo(guest, port)
    eventually(lambda: reachable(port))
    data = os.urandom(SIZE)
    with connect(port) as slow, connect(port) as sock:
        # Somebody who does not read keeps nobody else waiting.
        slow.settimeout(3)
        with pytest.raises(TimeoutError):
            slow.sendall(b"x" * (4 * SIZE))

        def send() -> None:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        got = read_all(sock)
        sender.join()
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


def test_single_connections_and_what_is_listened_on(
    guest: Machine, runtime_dir: Path, eventually: Eventually
) -> None:
    folder = runtime_dir / guest.name
    serve_page(guest, "127.0.0.1:80")
    with open_forward(folder / "vsock.sock", 80) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        assert b"hello" in read_all(sock)
    with pytest.raises(GuestError, match="Connection refused"):
        open_forward(folder / "vsock.sock", 81)
    with pytest.raises(GuestError, match="Cannot assign requested address"):
        open_forward(folder / "vsock.sock", 80, address="192.0.2.1")

    def listening() -> set[tuple[str, int, bool]]:
        with ControlClient(folder / "agent.sock") as agent:
            return {(port.protocol, port.port, port.loopback) for port in agent.listening_ports()}

    assert listening() == {("tcp", 80, True)}
    serve_page(guest, "8080")
    assert listening() == {("tcp", 80, True), ("tcp", 8080, False)}
    guest.exec(["killall", "httpd"], check=True)
    eventually(lambda: listening() == set())


@pytest.mark.inn(forward="none")
def test_without_the_option_nothing_is_led_to(vm_factory: VmFactory) -> None:
    guest = vm_factory()
    port = free_port()
    serve_page(guest, str(port))
    assert not reachable(port)
    assert "of the guest is" not in keeper_log(guest)
