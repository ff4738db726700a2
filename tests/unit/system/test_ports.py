# SPDX-License-Identifier: Apache-2.0
"""Ports of the host: free, taken, and by whom."""

from __future__ import annotations

import os
import socket

import pytest

from innkeeper.system.ports import find_port_fault, find_port_holder


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
