# SPDX-License-Identifier: Apache-2.0
"""Names that guests know each other by, and services of the host that rules open to them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guests import INN, Background, Eventually, Inn

from innkeeper import AsyncMachine, Machine
from innkeeper.errors import HostError, TimedOut, UsageError

TOPOLOGY = """\
name = "hosted"

[machines.web]
memory = "128M"
shares = ["site:/srv/site:ro"]

[machines.db]
memory = "128M"

[services.printer]
host = "tcp:127.0.0.1:{port}"
port = 631

[services.queue]
host = "unix:queue.sock"
port = 100

[services.store]
machine = "db"
port = 5432

[[policy]]
from = "web"
to = "printer"
log = true

[[policy]]
from = "web"
to = "queue"
quota = 1
"""
QUEUE = '[[policy]]\nfrom = "web"\nto = "queue"\nquota = 1\n'
REFUSED = b"vsock-connect: Connection reset by peer (os error 104)\n"


@pytest.fixture(scope="module")
def tcp() -> Iterator[socket.socket]:
    """The service `printer`, which waits for whoever accepts from it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        yield server


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, tcp: socket.socket) -> Path:
    folder = tmp_path_factory.mktemp("hosted")
    (folder / "site").mkdir()
    (folder / "site/index").write_text("from beside the file")
    path = folder / "hosted.toml"
    path.write_text(TOPOLOGY.format(port=tcp.getsockname()[1]))
    return path


@pytest.fixture(scope="module")
def hosted(file: Path) -> Iterator[Path]:
    """Both guests run; the topology's file."""
    up = subprocess.run([*INN, "up", file.name], capture_output=True, check=False, cwd=file.parent)
    assert up.returncode == 0, up.stderr.decode()
    yield file
    down = subprocess.run([*INN, "down", "hosted"], capture_output=True, check=False)
    assert down.returncode == 0, down.stderr.decode()


@pytest.fixture
def queue(hosted: Path) -> Iterator[socket.socket]:
    """The service `queue`; without this, nobody is there."""
    path = hosted.with_name("queue.sock")
    with socket.socket(socket.AF_UNIX) as server:
        # The path may be longer than a socket's address.
        with contextlib.chdir(path.parent):
            server.bind(path.name)
        server.listen()
        server.settimeout(30)
        yield server
    path.unlink()


def guest(name: str, *command: str) -> tuple[str, ...]:
    return ("exec", name, "--", *command)


def hosts(inn: Inn, name: str) -> list[str]:
    done = inn(*guest(name, "cat", "/etc/hosts"))
    assert done.code == 0, done.error
    return done.stdout.decode().splitlines()


def audit(inn: Inn) -> list[dict[str, object]]:
    done = inn("policy", "watch", "--no-follow", "hosted")
    assert done.code == 0, done.error
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_guests_know_machines_services_and_the_host(inn: Inn, hosted: Path) -> None:
    (topology,) = json.loads(inn("ps", "--format", "json").stdout)["topologies"]
    addresses = {one["name"]: one["addresses"] for one in topology["machines"]}
    addresses |= {"store": addresses["db"], "host": ["240.0.0.2", "fd69:6e6e:6b70::2"]}
    for name in ("web", "db"):
        lines = hosts(inn, name)
        assert "127.0.0.1 localhost" in lines
        for known, both in addresses.items():
            assert [line for line in lines if line.endswith(f" {known}.inn")] == [
                f"{address} {known}.inn" for address in both
            ]
    # The guest's own resolver reads them; nothing answers at the address.
    said = inn(*guest("web", "ping", "-c", "1", "-W", "1", "store.inn"))
    assert f"store.inn ({addresses['db'][0]})".encode() in said.stdout
    # A path of the file is relative to the file, wherever `inn` was called.
    assert inn(*guest("web", "cat", "/srv/site/index")).stdout == b"from beside the file"
    assert hosted.is_absolute()


def test_names_follow_what_is_applied_and_leave_other_lines(
    inn: Inn, hosted: Path, eventually: Eventually
) -> None:
    other = hosted.with_name("other.toml")
    text = hosted.read_text()
    prepare = """
        echo '10.0.0.1 mine' >>/etc/hosts && cp /etc/hosts /etc/mine
        rm /etc/hosts && ln -s mine /etc/hosts
    """
    assert inn(*guest("web", "sh", "-ec", prepare)).code == 0
    assert inn(*guest("db", "sh", "-ec", "mount -t tmpfs -o ro none /etc")).code == 0

    def rename(service: str, seen_by: str) -> None:
        other.write_text(text.replace("store", service))
        done = inn("policy", "apply", str(other))
        assert done.code == 0, done.error
        eventually(lambda: f"{service}.inn" in " ".join(hosts(inn, seen_by)))

    try:
        for service in ("vault", "safe"):
            rename(service, "web")
        assert inn(*guest("db", "umount", "/etc")).code == 0
        rename("last", "db")
        # A link stays one, and what somebody wrote stays.
        lines = hosts(inn, "web")
        assert "10.0.0.1 mine" in lines
        assert not [line for line in lines if line.endswith((" vault.inn", " store.inn"))]
        assert inn(*guest("web", "test", "-L", "/etc/hosts")).code == 0
        # Where it could not be written, that was said once, and nothing failed.
        said = b"names of guests: /etc/hosts: Read-only file system"
        eventually(lambda: said in inn("logs", "--source", "keeper", "db").stdout)
        assert inn("logs", "--source", "keeper", "db").stdout.count(said) == 1
    finally:
        assert inn("policy", "apply", str(hosted)).code == 0
    eventually(lambda: "store.inn" in " ".join(hosts(inn, "db")))


def test_a_machine_that_comes_and_goes_is_known_to_those_that_run(inn: Inn, hosted: Path) -> None:
    text = hosted.read_text()
    try:
        hosted.write_text(text + '\n[machines.late]\nmemory = "128M"\n')
        done = inn("up", str(hosted))
        assert done.code == 0, done.error
        known = [line for line in hosts(inn, "web") if line.endswith(" late.inn")]
        assert len(known) == 2
        # It knows those that were there before.
        assert set(known) < set(hosts(inn, "late"))
        assert set(hosts(inn, "db")) == set(hosts(inn, "late"))
    finally:
        hosted.write_text(text)
        done = inn("up", str(hosted))
    assert (done.code, "late removed" in done.error) == (0, True)
    assert not [line for line in hosts(inn, "web") if "late" in line]


def test_a_guest_reaches_the_service_that_a_rule_opens(
    inn: Inn, hosted: Path, tcp: socket.socket, queue: socket.socket
) -> None:
    sent = hashlib.sha256(b"x").digest() * (1 << 15)
    for server, port in ((tcp, "631"), (queue, "100")):

        def echo(server: socket.socket = server) -> None:
            stream, _ = server.accept()
            with stream, stream.makefile("rb") as reader:
                # All of it first: the guest ended its half, and still listens.
                stream.sendall(reader.read())

        thread = threading.Thread(target=echo)
        thread.start()
        done = inn(*guest("web", "inn-agent", "vsock-connect", "2", port), stdin=sent)
        thread.join(30)
        assert done.code == 0, done.error
        assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(sent).digest()
        # No rule speaks of the other guest, which cannot tell that from absence.
        done = inn(*guest("db", "inn-agent", "vsock-connect", "2", port))
        assert (done.code, done.stderr) == (1, REFUSED)
    told = [(one["by"], one["destination"], one["port"], one["verdict"]) for one in audit(inn)]
    assert ("web", "host", 631, "allowed") in told
    assert ("db", "host", 631, "denied") in told
    assert ("db", "host", 100, "denied") in told
    done = inn("policy", "explain", "web", "printer")
    assert (done.code, done.stdout.count(f"{hosted.name} line 22".encode())) == (0, 1)
    assert inn("policy", "explain", "db", "queue").code == 1
    assert b"no service of" in inn("policy", "explain", "web", "host", "80").stdout


def test_a_service_that_is_not_there_refuses(inn: Inn, hosted: Path) -> None:
    done = inn(*guest("web", "inn-agent", "vsock-connect", "2", "100"))
    assert (done.code, done.stderr) == (1, REFUSED)
    assert b"where nobody listens" in inn("ps").stdout
    (topology,) = json.loads(inn("ps", "--format", "json").stdout)["topologies"]
    listening = {one["name"]: one["listening"] for one in topology["services"]}
    assert listening == {"printer": True, "queue": False, "store": None}
    assert hosted.is_absolute()


def test_a_new_policy_closes_a_service_and_cuts_its_streams(
    inn: Inn,
    hosted: Path,
    queue: socket.socket,
    background: Background,
    eventually: Callable[..., None],
) -> None:
    connect = guest("web", "sh", "-c", "sleep 999 | inn-agent vsock-connect 2 100")
    near = background(*connect)
    stream, _ = queue.accept()
    with stream:
        # The quota is one stream.
        done = inn(*guest("web", "inn-agent", "vsock-connect", "2", "100"))
        assert (done.code, done.stderr) == (1, REFUSED)
        other = hosted.with_name("other.toml")
        other.write_text(hosted.read_text().replace(QUEUE, ""))
        try:
            assert inn("policy", "apply", str(other)).code == 0
            stream.settimeout(30)
            assert stream.recv(1) == b""
            done = inn(*guest("web", "inn-agent", "vsock-connect", "2", "100"))
            assert (done.code, done.stderr) == (1, REFUSED)
        finally:
            assert inn("policy", "apply", str(hosted)).code == 0
    near.terminate()
    verdicts = {one["verdict"] for one in audit(inn) if one["port"] == 100 and one["by"] == "web"}
    assert {"over-quota", "cut", "denied"} <= verdicts


def test_ports_that_are_no_services_are_doors_for_programs(
    inn: Inn, hosted: Path, runtime_dir: Path, background: Background
) -> None:
    vm = Machine.get("db")
    asked = guest("db", "inn-agent", "vsock-connect", "2", "4000")
    path = runtime_dir / "db/vsock.sock_4000"
    with contextlib.closing(vm), vm.listen(4000) as door:
        assert path.is_socket()
        with pytest.raises(HostError, match="in use"):
            vm.listen(4000)
        with pytest.raises(TimedOut):
            door.accept(timeout_s=0.0)
        near = background(*asked)
        with door.accept(timeout_s=30) as sock:
            sock.sendall(b"by hand")
        assert near.communicate(timeout=30)[0] == b"by hand"
    assert not path.exists()
    assert inn(*asked).stderr == REFUSED
    for port, said in ((7777, "own, for the announcement"), (631, "is the service 'printer'")):
        with pytest.raises(UsageError, match=said):
            vm.listen(port)
    # No table was asked.
    assert not [one for one in audit(inn) if one["port"] == 4000]
    assert hosted.is_absolute()


def test_programs_under_asyncio_are_endpoints_too(hosted: Path, background: Background) -> None:
    async def main() -> None:
        vm = await AsyncMachine.get("web")
        async with vm.listen(4001) as door:
            background(*guest("web", "sh", "-c", "echo hi | inn-agent vsock-connect 2 4001"))
            reader, writer = await asyncio.open_unix_connection(sock=await door.accept())
            assert await reader.read() == b"hi\n"
            writer.close()
            await writer.wait_closed()
        far = background(*guest("web", "inn-agent", "vsock-listen", "4002"))
        assert far.stderr is not None
        assert await asyncio.to_thread(far.stderr.readline) == b"listening\n"
        reader, writer = await asyncio.open_unix_connection(sock=await vm.connect(4002))
        writer.write(b"to the guest")
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert far.communicate(timeout=30)[0] == b"to the guest"

    asyncio.run(asyncio.wait_for(main(), 50))
    assert hosted.is_absolute()
