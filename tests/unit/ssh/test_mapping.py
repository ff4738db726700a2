# SPDX-License-Identifier: Apache-2.0
"""What SSH asks for, in the guest's words."""

from __future__ import annotations

import pytest

from innkeeper.agent.setup import WindowSize
from innkeeper.errors import UsageError
from innkeeper.ssh.mapping import (
    forward_addresses,
    machine_of,
    session_command,
    shell_argv,
    window_of,
)


def test_host_names_are_machines() -> None:
    assert machine_of("web.inn") == machine_of("web") == "web"
    for bad in ("web.example.com", ".inn", "-x.inn", "../x"):
        with pytest.raises(UsageError):
            machine_of(bad)


def test_forwarded_connections_end_in_the_guest() -> None:
    for host in ("localhost", "LOCALHOST.", "", "*", "web", "web.inn"):
        assert forward_addresses(host, "web") == ("127.0.0.1", "::1")
    assert forward_addresses("[::1]", "web") == ("::1",)
    # Whether that is the guest's own, its agent says.
    assert forward_addresses("192.0.2.7", "web") == ("192.0.2.7",)
    with pytest.raises(UsageError, match=r"'db\.inn' is not the guest 'web'"):
        forward_addresses("db.inn", "web")


def test_a_session_is_a_command() -> None:
    command = session_command((), "alice", {b"LANG": b"C", b"BAD": b"\xff", b"TERM": b"x"}, "vt100")
    assert (command.argv, command.user) == ((), "alice")
    assert command.env == {"LANG": "C", "TERM": "vt100"}
    assert "TERM" not in session_command((), "alice", {}, None).env
    assert shell_argv("a 'b'")[-1] == "a 'b'", "the user's shell reads it, nobody before"
    assert window_of(80, 1 << 31) == WindowSize(rows=0xFFFF, cols=80)
