# SPDX-License-Identifier: Apache-2.0
"""Ports of the host: free, taken, and by whom."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from innkeeper.system.ports import find_port_fault, find_port_holder, target_listens


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_is_taken_and_free_again(protocol: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            sock.listen()
        port = sock.getsockname()[1]
        assert find_port_fault(protocol, "127.0.0.1", port) == "Address already in use"
        assert find_port_holder(protocol, port).startswith(f"process {os.getpid()} (")
    assert find_port_fault(protocol, "127.0.0.1", port) is None
    assert find_port_holder(protocol, port) == ""


def test_an_address_of_another_host() -> None:
    assert "assign" in (find_port_fault("tcp", "192.0.2.1", 8080) or "")


@pytest.mark.parametrize(
    ("bound", "dialled"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]"), ("::", "127.0.0.1")],
)
def test_whether_somebody_listens_is_seen_without_dialling(bound: str, dialled: str) -> None:
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((bound, 0))
        target = f"tcp:{dialled}:{sock.getsockname()[1]}"
        assert target_listens(target) is False
        sock.listen()
        assert target_listens(target) is True
        sock.settimeout(0.0)
        with pytest.raises(BlockingIOError):
            sock.accept()
    assert target_listens(target) is False


def test_unix_sockets_and_other_hosts(tmp_path: Path) -> None:
    path = tmp_path / "a b"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        assert target_listens(f"unix:{path}") is False
        sock.listen()
        assert target_listens(f"unix:{path}") is True
    # Its file is there still, and nobody listens.
    assert target_listens(f"unix:{path}") is False
    assert target_listens("tcp:192.0.2.1:80") is None
