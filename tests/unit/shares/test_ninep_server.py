# SPDX-License-Identifier: Apache-2.0
"""The 9P server as it is started for a guest: what it serves, and what it may do."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from innkeeper.model.share import ServerUsers, parse_share
from innkeeper.shares.plan import Choice, plan_server
from innkeeper.shares.serve import ShareServer, start_server
from innkeeper.shares.servers import ninep_facts

NO_ID = 0xFFFFFFFF
ERROR = 7


@pytest.fixture(params=["user", "root"])
def uid(request: pytest.FixtureRequest) -> int:
    """Whose server it is planned for; what a user can do, root can."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("only root can be root")
    return 0 if request.param == "root" else 1000


@pytest.fixture
def server(tmp_path: Path, uid: int) -> Iterator[tuple[ShareServer, Path]]:
    """A server of the folders `rw` and `ro`, and its socket."""
    shares = []
    for name in ("rw", "ro"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        shares.append(parse_share(f"{tmp_path / name}:/{name}{':ro' if name == 'ro' else ''}"))
    choice = Choice(transport="9p", server=ninep_facts(), reason="")
    root = str(tmp_path / "served")
    own = ((0, os.geteuid(), 1),), ((0, os.getegid(), 1),)
    user = ServerUsers(own_user=True, uid_map=own[0], gid_map=own[1])
    users = user if uid else ServerUsers()
    plan = plan_server(choice, tuple(shares), root=root, cache="never", users=users)
    with tempfile.TemporaryDirectory(prefix="inn-", dir="/tmp") as folder:
        path = Path(folder) / "socket"
        started = start_server(plan, path)
        try:
            yield started, path
        finally:
            started.end()
        assert not path.exists()


class Client:
    """Sends messages and reads the answers."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(20)
        self._sock.connect(os.fspath(path))

    def close(self) -> None:
        self._sock.close()

    def ask(self, kind: int, body: bytes) -> tuple[int, bytes]:
        """The type and the body of an answer."""
        self._sock.sendall(struct.pack("<IBH", 7 + len(body), kind, 1) + body)
        size, kind, _tag = struct.unpack("<IBH", self._exactly(7))
        return kind, self._exactly(size - 7)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._sock.recv(size - len(data))
            assert more, "the server closed the connection"
            data += more
        return data

    def attach(self) -> None:
        assert self.ask(100, struct.pack("<I", 8192) + text("9P2000.L"))[0] == 101
        body = struct.pack("<II", 0, NO_ID) + text("") + text("") + struct.pack("<I", 0)
        assert self.ask(104, body)[0] == 105

    def walk(self, fid: int, *names: str) -> int:
        """The type of the answer."""
        body = struct.pack("<IIH", 0, fid, len(names)) + b"".join(map(text, names))
        return self.ask(110, body)[0]


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<H", len(data)) + data


@pytest.fixture
def client(server: tuple[ShareServer, Path]) -> Iterator[Client]:
    made = Client(server[1])
    made.attach()
    yield made
    made.close()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_it_is_confined(server: tuple[ShareServer, Path], client: Client, uid: int) -> None:
    pid = server[0].child.pid
    told = status(pid)
    assert told["Name"] == "inn-9p"
    # SECCOMP_MODE_FILTER
    assert (told["Seccomp"], told["NoNewPrivs"]) == ("2", "1")
    # Of root's rights those to files: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID;
    # and SETGID, SETUID, to make them as another.
    assert int(told["CapEff"], 16) == (0xDF if uid == 0 else 0)
    own, its = (Path(f"/proc/{who}/ns/mnt").readlink() for who in ("self", pid))
    assert own != its
    assert client.walk(9) == 111


def test_it_serves_its_shares_and_nothing_else(
    server: tuple[ShareServer, Path], client: Client
) -> None:
    del server
    keys = {name: parse_share(f"/x:/{name}").key for name in ("rw", "ro")}
    assert client.walk(1, keys["rw"], "file") == 111
    assert client.walk(2, "0123456789abcdef") == ERROR
    assert client.walk(3, "..") == ERROR
    assert client.walk(4, keys["ro"]) == 111
    create = text("new") + struct.pack("<III", 1, 0o600, 0)
    kind, body = client.ask(14, struct.pack("<I", 4) + create)
    assert (kind, struct.unpack("<I", body)[0]) == (ERROR, 30), "EROFS"
    assert client.walk(5, keys["rw"]) == 111
    assert client.ask(14, struct.pack("<I", 5) + create)[0] == 15


def test_too_many_connections_cost_only_themselves(
    server: tuple[ShareServer, Path], client: Client
) -> None:
    others = [Client(server[1]) for _ in range(8)]
    for other in others[:7]:
        other.attach()
    with pytest.raises((AssertionError, ConnectionError)):
        others[7].attach()
    for other in others:
        other.close()
    assert client.walk(1) == 111
