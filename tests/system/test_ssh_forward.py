# SPDX-License-Identifier: Apache-2.0
"""Connections into a guest over ssh, and many sessions over one connection."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from pathlib import Path

import pytest
from openssh import HOST, Eventually, Ssh, proxy_of, running


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


@pytest.fixture
def website(ssh: Ssh) -> str:
    """A listener at the guest's loopback only."""
    done = ssh(
        HOST,
        "mkdir -p /www; seq 100000 > /www/numbers; "
        "httpd -p 127.0.0.1:8081 -h /www 2>/dev/null; wget -qO- 127.0.0.1:8081/numbers | tail -1",
    )
    assert done.stdout == b"100000\n", done.stderr
    return "GET /numbers HTTP/1.0\r\n\r\n"


def _ask(sock: socket.socket, request: str) -> bytes:
    sock.settimeout(20)
    sock.sendall(request.encode())
    answer = b""
    while data := sock.recv(65536):
        answer += data
    return answer


def test_forwarding_to_a_loopback_listener(
    website: str, ssh_config: Path, eventually: Eventually
) -> None:
    local, socks = _free_port(), _free_port()
    argv = [
        "ssh",
        "-F",
        str(ssh_config),
        "-N",
        "-L",
        f"{local}:localhost:8081",
        "-D",
        str(socks),
        HOST,
    ]
    with running(argv):
        eventually(lambda: _answers(local))
        with socket.create_connection(("127.0.0.1", local), 20) as sock:
            assert _ask(sock, website).endswith(b"99999\n100000\n")
        eventually(lambda: _answers(socks))
        for host, code in ((b"localhost", 0), (b"example.com", 1)):
            with socket.create_connection(("127.0.0.1", socks), 20) as sock:
                sock.sendall(b"\x05\x01\x00")
                assert sock.recv(2) == b"\x05\x00"
                sock.sendall(b"\x05\x01\x00\x03%c%s\x1f\x91" % (len(host), host))
                reply = sock.recv(10)
                assert (reply[1:2] == b"\0") == (code == 0), "only the guest itself is reached"
                if code == 0:
                    assert _ask(sock, website).endswith(b"100000\n")


def test_forwarding_to_a_unix_socket(
    guest_programs: str, ssh: Ssh, ssh_config: Path, tmp_path: Path, eventually: Eventually
) -> None:
    assert ssh(HOST, f"{guest_programs} -a /tmp/agent.sock").returncode == 0
    local, broken = tmp_path / "s", tmp_path / "b"
    leads = ("-L", f"{local}:/tmp/agent.sock", "-L", f"{broken}:/tmp/none.sock")
    with running(["ssh", "-F", str(ssh_config), "-N", *leads, HOST]) as client:
        eventually(lambda: local.exists() and broken.exists())
        listed = subprocess.run(
            ["ssh-add", "-l"],
            env={**os.environ, "SSH_AUTH_SOCK": str(local)},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (listed.returncode, listed.stdout) == (1, b"The agent has no identities.\n")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(str(broken))
            assert sock.recv(1) == b""
        assert client.stderr is not None
        assert b"No such file" in client.stderr.readline()


def test_what_is_not_served_is_said(ssh: Ssh) -> None:
    done = ssh("-o", "ExitOnForwardFailure=yes", "-R", "7777:localhost:22", HOST, "true")
    assert done.returncode == 255
    assert b"remote forwarding (-R 7777) is not possible" in done.stderr
    other = ssh("-W", "example.com:80", HOST)
    assert other.returncode == 255
    assert b"'example.com' is not the guest 'sshbox'" in other.stderr
    assert b"subsystem request failed" in ssh("-s", HOST, "netconf").stderr
    closed = ssh("-W", "localhost:1", HOST)
    assert b"Connection refused" in closed.stderr


def test_one_connection_for_many_sessions(
    ssh: Ssh, ssh_config: Path, tmp_path: Path, eventually: Eventually
) -> None:
    control = tmp_path / "m"
    with running(["ssh", "-F", str(ssh_config), "-N", "-M", "-S", str(control), HOST]) as master:
        eventually(control.exists)
        before = proxy_of(master)
        shared = ("-S", str(control), "-o", "ProxyCommand=false")
        assert ssh(*shared, HOST, "echo shared; exit 5").returncode == 5
        for _ in range(3):
            with running(["ssh", "-F", str(ssh_config), *shared, HOST, "cat"]) as other:
                assert other.stdin is not None
                assert other.stdout is not None
                other.stdin.write(b"one\n")
                other.stdin.flush()
                assert other.stdout.readline() == b"one\n"
                assert ssh(*shared, HOST, "echo two").stdout == b"two\n"
                # The master has its descriptors, and closes them with the session,
                # which a master that is left alone now and then forgets.
                other.kill()
                other.communicate(timeout=30)
        assert proxy_of(master) == before
        assert ssh("-S", str(control), "-O", "exit", HOST).returncode == 0
        assert master.wait(20) in (0, 255)
