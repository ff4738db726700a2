# SPDX-License-Identifier: Apache-2.0
"""Rings as programs in guests have them: Argo's vectors, the libraries, several guests at once."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guests import INN, Background, Inn
from ring_vectors import Replay, Table, load, unfit

import innkeeper
from innkeeper.rings import Address, Rings

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "python" / "innkeeper" / "_guest"
PROXY_PORT = 5000
EVERYTHING = 'operations = ["register-single", "register-any", "send", "query", "notify"]'
TOPOLOGY = f"""\
name = "choir"

[machines.alto]
memory = "128M"

[machines.bass]
memory = "128M"

[rings]
mac_permissive = true

[[policy]]
from = "*"
to = "*"
ring_quota = 100
{EVERYTHING}
"""


@pytest.fixture(scope="module")
def choir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """Both guests run; their CIDs by name."""
    path = tmp_path_factory.mktemp("topology") / "choir.toml"
    path.write_text(TOPOLOGY)
    up = subprocess.run([*INN, "up", str(path)], capture_output=True, check=False)
    assert up.returncode == 0, up.stderr.decode()
    listed = subprocess.run([*INN, "ps", "--format", "json"], capture_output=True, check=True)
    (topology,) = json.loads(listed.stdout)["topologies"]
    yield {machine["name"]: machine["cid"] for machine in topology["machines"]}
    down = subprocess.run([*INN, "down", "choir"], capture_output=True, check=False)
    assert down.returncode == 0, down.stderr.decode()


@contextlib.contextmanager
def led(machine: innkeeper.Machine) -> Iterator[None]:
    """A program in the guest leads connections to the guest's own way to its rings."""
    command = ["inn-guest", "proxy", f"vsock:host:{PROXY_PORT}", "vsock:host:7078"]
    with machine.popen(command) as proxy:
        assert b"listening" in proxy.stderr.readline()
        yield
        proxy.terminate()


class Guests:
    """Two guests as domains. What this program says, one of theirs says to the host."""

    def __init__(self, cids: dict[str, int]) -> None:
        self.machines = {cid: innkeeper.Machine.get(name) for name, cid in cids.items()}

    def connect(self, domain: int) -> Rings:
        return Rings(self.machines[domain].connect(PROXY_PORT))

    def create(self, domain: int) -> None:
        raise NotImplementedError

    def destroy(self, domain: int) -> None:
        raise NotImplementedError

    def set_policy(self, refuse: list[Table], *, mac_permissive: bool) -> Iterator[int]:
        raise NotImplementedError


def fits_two_guests(vector: Table) -> bool:
    """Whether it is about the domains 1 and 2 alone, under a policy that allows all."""
    setup = vector.get("setup", {})
    if unfit(setup) or setup.keys() - {"bind", "domains", "quota_percent"}:
        return False
    if setup.get("quota_percent", 100) != 100:
        return False
    text = json.dumps(vector["steps"])
    return not any(word in text for word in ('"3', "/3", '"create"', '"destroy"', '"policy"'))


@pytest.mark.slow
def test_argos_vectors_between_two_guests(choir: dict[str, int]) -> None:
    chosen = [(name, vector) for name, vector in load() if fits_two_guests(vector)]
    assert len(chosen) >= 40
    carrier = Guests(choir)
    ids = {1: choir["alto"], 2: choir["bass"]}
    with contextlib.ExitStack() as stack:
        for machine in carrier.machines.values():
            stack.enter_context(led(machine))
        for name, vector in chosen:
            replay = Replay(carrier, vector.get("setup", {}), ids=ids)
            try:
                replay.play(vector["steps"])
            except AssertionError as failed:
                raise AssertionError(f"{name}: {failed}") from failed
            finally:
                replay.close()
            print(name, *replay.skipped, sep="\n  ")  # noqa: T201 - each with its reason


def test_one_program_of_the_host_for_several_guests(inn: Inn, choir: dict[str, int]) -> None:
    with innkeeper.HostRings() as host:
        host.register(80)
        for name in choir:
            host.add(innkeeper.Machine.get(name))
        assert host.guests == tuple(sorted(choir.values()))
        messages = host.messages(80, timeout_s=30)
        for name, cid in choir.items():
            done = inn("exec", name, "--", "inn-guest", "rings", "send", "-p", "9", "host:80", name)
            assert done.code == 0, done.error
            message = next(messages)
            assert (message.sender, message.data) == ((cid, 9), name.encode())
        with pytest.raises(ConnectionRefusedError):
            host.send(80, Address(choir["alto"], 81), b"nobody is there")
        with pytest.raises(ProcessLookupError):
            host.send(80, Address(9, 81), b"nobody at all")
        host.unregister(80)
        done = inn("exec", "alto", "--", "inn-guest", "rings", "query", "host:80")
        assert (done.code, done.stdout) == (1, b"no ring takes messages there\n"), done.error


def test_a_question_from_the_shell(inn: Inn, choir: dict[str, int], background: Background) -> None:
    rings = ("--", "inn-guest", "rings")
    receiver = background("exec", "bass", *rings, "receive", "--format", "json", "-n", "2",
                          "-r", "4096", "--from", "alto", "81")  # fmt: skip
    # There is no word from it in this format: the question says when the ring is there.
    query = ("exec", "alto", *rings, "query", "--format", "json", "bass:81", "100")
    while (done := inn(*query)).code != 0:
        assert receiver.poll() is None
        assert json.loads(done.stdout) == {"flags": [], "max_bytes": 0}
    flags = ["exists", "empty", "sufficient"]
    assert json.loads(done.stdout) == {"flags": flags, "max_bytes": 4064}
    done = inn("exec", "alto", *rings, "bench", "-n", "1", "-s", "3", "bass:81")
    assert done.code == 0, done.error
    done = inn("exec", "alto", *rings, "send", "-t", "7", "bass:81", stdin=b"\0\xff")
    assert done.code == 0, done.error
    out, _ = receiver.communicate(timeout=30)
    first, second = (json.loads(line) for line in out.splitlines())
    assert (first["domain"], first["data"]) == (choir["alto"], "555555")
    assert (second["type"], second["bytes"], second["data"]) == (7, 2, "00ff")


def test_a_guest_that_starts_again_inherits_nothing(inn: Inn, choir: dict[str, int]) -> None:
    alto, bass = (innkeeper.Machine.get(name) for name in ("alto", "bass"))
    with led(alto), Rings(alto.connect(PROXY_PORT)) as rings:
        rings.register(82, choir["bass"])
        with led(bass), Rings(bass.connect(PROXY_PORT)) as other:
            port = other.bind()
            other.sendv((choir["bass"], port), (choir["alto"], 82), [b"of the first life"])
            other.register(83, choir["alto"])
        bass.restart()
        # The ring for the one that is gone went with it, and what was in it.
        assert list(rings.messages(82, choir["bass"], timeout_s=30)) == []
        with led(bass), Rings(bass.connect(PROXY_PORT)) as other:
            port = other.bind()
            with pytest.raises(ConnectionRefusedError):
                other.sendv((choir["bass"], port), (choir["alto"], 82), [b"of the second"])
            with pytest.raises(ConnectionRefusedError):
                rings.sendv((choir["alto"], rings.bind()), (choir["bass"], 83), [b"x"])
    # Its second life was this test's own, which therefore is the last of this topology.
    bass.stop()


PYTHON = """\
import sys
sys.path.insert(0, "/run/innkeeper/lib/python")
from innkeeper_rings import HOST, Rings
with Rings.open() as rings:
    rings.register(80, HOST)
    port = rings.bind()
    rings.send(port, (HOST, 80), b"from Python")
    message = next(rings.messages(80, HOST))
    print(message.sender.domain, message.data.decode())
    try:
        rings.sendv((rings.domain + 1, port), (HOST, 80), [b"as another"])
    except PermissionError:
        print("not as another")
"""


@pytest.mark.slow
def test_programs_of_a_guest_load_both_libraries(tmp_path: Path) -> None:
    """In a guest on this host's files, which has its Python and its libc."""
    program = tmp_path / "client"
    subprocess.run(
        ["gcc", f"-I{ROOT}/crates/librings/include", f"-L{LIBRARY}", "-o", program,
         ROOT / "tests/contract/rings_client.c", "-linn_rings", "-Wl,-rpath,/run/innkeeper/lib"],
        check=True,
        timeout=50,
    )  # fmt: skip
    with innkeeper.Machine.run(root="host", memory="512M") as vm, vm.rings() as host:
        cid = vm.record.guest_cid
        assert cid is not None
        host.register(80, cid)
        with vm.popen(["/usr/bin/python3", "-c", PYTHON]) as python:
            message = next(host.messages(80, cid, timeout_s=30))
            assert (message.sender.domain, message.data) == (cid, b"from Python")
            host.send(80, (cid, 80), b"from the host", timeout_s=30)
            assert python.stdout.readlines() == [b"0 from the host\n", b"not as another\n"]
            assert python.wait(30) == 0
        vm.files.push(program, "/tmp/client")
        # Without a path: over vsock.
        done = vm.exec(["/tmp/client"], text=True)
        assert (done.stdout, done.stderr, done.returncode) == ("all of it\n", "", 0)
