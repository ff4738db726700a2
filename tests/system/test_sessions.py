# SPDX-License-Identifier: Apache-2.0
"""Sessions of one running guest: left and found again, users, signals, many at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest
from guests import BOOT_LIMIT_S, INN, Inn
from terminals import Terminal

from innkeeper import AsyncMachine, Machine
from innkeeper.agent.ports import FORWARD_PORT
from innkeeper.agent.setup import start_request
from innkeeper.errors import GuestError, UsageError
from innkeeper.model.machine import Command
from innkeeper.switchboard.ports import SHELL_PORT

Eventually = Callable[[Callable[[], bool]], None]

NAME = "talk"
PROMPT = b"# "
USERS = """
echo alice:x:1234:1234::/home/alice:/bin/sh >> /etc/passwd
echo 'alice:x:1234:' >> /etc/group
echo 'extra:x:55:bob,alice' >> /etc/group
mkdir -p /home/alice; chown 1234:1234 /home/alice; chmod 700 /home/alice
"""
# No round trip of a session takes longer because of others; a busy host's own.
ROUND_TRIP_LIMIT_S = 5
SESSIONS = 20
RUSH = 300


@pytest.fixture(scope="module", autouse=True)
def vm() -> Iterator[Machine]:
    """A machine that all these tests use, with a user alice."""
    machine = Machine.create(NAME, memory="256M")
    try:
        machine.start()
        machine.exec(["sh", "-c", USERS], check=True)
        yield machine
    finally:
        machine.remove(force=True)


def sessions(inn: Inn) -> dict[str, dict[str, object]]:
    done = inn("sessions", NAME, "--format", "json")
    assert done.code == 0, done.error
    return {session["id"]: session for session in json.loads(done.stdout)["sessions"]}


def test_a_shell_is_left_and_found_again(inn: Inn) -> None:
    with ExitStack() as stack:

        def terminal(*arguments: str) -> Terminal:
            made = Terminal(*arguments)
            stack.callback(made.close)
            return made

        first = terminal("shell", NAME)
        first.expect(PROMPT)
        first.type(b"cd /usr; echo in-$((1+1))\n")
        first.expect(b"in-2")
        first.type(b"\x1dd")
        first.expect(b"left session ")
        assert first.process.wait(BOOT_LIMIT_S) == 0

        ((session, entry),) = sessions(inn).items()
        assert entry["user"] == "root"
        assert (entry["tty"], entry["attached"], entry["exit_code"]) == (True, False, None)
        assert 0 <= time.time() - float(str(entry["since"])) < BOOT_LIMIT_S
        done = inn("exec", "--workdir-of", str(entry["pid"]), NAME, "pwd")
        assert (done.code, done.stdout) == (0, b"/usr\n")

        # Only one is there, so that nobody needs to say which.
        second = terminal("attach", "--detach-keys", "ctrl-p,ctrl-q", NAME)
        second.expect(b"in-2")
        second.process.kill()
        second.process.wait()
        hung_up = terminal("attach", NAME, session)
        hung_up.expect(b"in-2")
        hung_up.process.send_signal(signal.SIGHUP)
        assert hung_up.process.wait(BOOT_LIMIT_S) == 128 + signal.SIGHUP
        third = terminal("attach", NAME, session)
        third.expect(b"in-2")
        third.type(b"echo still-$((40+2))\n")
        third.expect(b"still-42")
        third.expect(PROMPT)
        third.type(b"exit 5\n")
        assert third.process.wait(BOOT_LIMIT_S) == 5
    assert sessions(inn) == {}


def test_detached_commands(inn: Inn, eventually: Eventually) -> None:
    script = "echo out; echo err >&2; cat; exit 7"
    begun = inn("exec", "--detach", NAME, "--", "sh", "-c", script)
    assert begun.code == 0, begun.error
    session = begun.stdout.decode().strip()
    eventually(lambda: sessions(inn)[session]["exit_code"] == 7)
    table = inn("sessions", NAME).stdout.decode()
    assert "exited 7" in table
    assert "'echo out;" in table
    done = inn("attach", NAME, session)
    assert (done.code, done.stdout, done.stderr) == (7, b"out\n", b"err\n")

    session = inn("exec", "-d", "-i", NAME, "cat").stdout.decode().strip()
    done = inn("attach", NAME, session, stdin=b"later")
    assert (done.code, done.stdout) == (0, b"later")
    assert sessions(inn) == {}

    flood = "seq 100000; exec sleep 1000"
    session = inn("exec", "-d", NAME, "sh", "-c", flood).stdout.decode().strip()
    pid = str(sessions(inn)[session]["pid"])
    eventually(lambda: inn("exec", NAME, "cat", f"/proc/{pid}/comm").stdout == b"sleep\n")
    assert inn("exec", NAME, "kill", "-9", pid).code == 0
    done = inn("attach", NAME)
    assert done.code == 137
    assert done.stdout.endswith(b"\n99999\n100000\n")
    assert "bytes of output came before this and are not kept" in done.error

    for arguments, code, told in (
        (("attach", NAME), 2, "no session"),
        (("attach", NAME, "abc"), 125, 'no session "abc"'),
        (("exec", "-d", "-t", "5", NAME, "true"), 2, "--timeout"),
        (("exec", "-i", NAME, "true"), 2, "needs --detach"),
        (("exec", "-d", NAME, "no-such"), 127, "cannot find"),
        (("exec", "-d", "-u", "bob", NAME, "true"), 125, 'no user "bob"'),
        (("shell", "--detach-keys", "ctrl", NAME), 2, "not a key"),
        (("sessions", "nobody"), 2, "nobody"),
    ):
        done = inn(*arguments)
        assert done.code == code, (arguments, done.error)
        assert told in done.error, arguments


def test_users_and_folders(inn: Inn) -> None:
    script = "id -u; id -g; id -G; echo $USER $HOME; pwd"
    for user, told in {
        "alice": "1234\n1234\n1234 55\nalice /home/alice\n/home/alice\n",
        "1234": "1234\n1234\n1234 55\nalice /home/alice\n/home/alice\n",
        "alice:extra": "1234\n55\n55\nalice /home/alice\n/home/alice\n",
        "77:88": "77\n88\n88\n77 /\n/\n",
    }.items():
        done = inn("exec", "--user", user, NAME, "sh", "-c", script)
        assert done.stdout.decode() == told, done.error
    for user, told in {
        "bob": 'no user "bob" in /etc/passwd',
        "alice:nogroup9": 'no group "nogroup9" in /etc/group',
        "4294967295": 'no user "4294967295"',
        ":": 'no user ""',
    }.items():
        done = inn("exec", "--user", user, NAME, "true")
        assert done.code == 125
        assert told in done.error
    # What a user may not enter stays closed, by name and by process.
    done = inn("exec", "--user", "77", "--workdir", "/home/alice", NAME, "true")
    assert (done.code, "/home/alice: Permission denied" in done.error) == (125, True)
    done = inn("exec", "--user", "77", "--workdir-of", "1", NAME, "true")
    assert (done.code, "/proc/1/cwd: Permission denied" in done.error) == (125, True)
    done = inn("exec", "--workdir-of", "1", "--workdir", "/", NAME, "true")
    assert done.code == 2


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2"])
def test_signals_reach_the_command(name: str) -> None:
    # Not `read`: a signal that comes just before it would wait for its end.
    script = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.1; done"
    with subprocess.Popen(
        [*INN, "exec", NAME, "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.stdout.readline() == f"got {name}\n".encode()
        assert process.wait(BOOT_LIMIT_S) == 9


def test_a_killed_command(inn: Inn) -> None:
    assert inn("exec", NAME, "sh", "-c", "kill -9 $$").code == 137


def test_kept_sessions_of_a_program(vm: Machine) -> None:
    kept = vm.popen(["sh", "-c", "echo begun; read x; echo got $x; exit 4"], detach=True)
    assert kept.stdout.readline() == b"begun\n"
    kept.detach()
    (entry,) = vm.sessions()
    assert (entry.id, entry.attached, entry.exit_code) == (kept.session_id, False, None)
    with vm.attach(entry.id) as again:
        again.stdin.write(b"x\n")
        again.stdin.flush()
        assert again.stdout.read() == b"begun\ngot x\n"
        assert again.wait(30) == 4
    assert vm.sessions() == ()
    with pytest.raises(GuestError, match="no session"):
        vm.attach(entry.id)
    with vm.popen(["cat"]) as bound, pytest.raises(UsageError, match="ends with its connection"):
        bound.detach()

    async def twin() -> None:
        machine = await AsyncMachine.get(NAME)
        process = await machine.popen(["sh", "-c", "echo $0; exec sleep 1000"], detach=True)
        assert await process.readline() == b"sh\n"
        await process.detach()
        (entry,) = await machine.sessions()
        async with await machine.attach(entry.id) as again:
            assert again.session_id == entry.id
            assert await again.readline() == b"sh\n"
            await again.kill()
            assert await again.wait(30) == 137
        assert await machine.sessions() == ()

    asyncio.run(twin())


def test_twenty_sessions_do_not_wait_for_stuck_ones(vm: Machine) -> None:
    """A client that does not read, a stopped process, a flood: nobody else notices."""
    with vm.popen(["cat"]) as alone:
        baseline = statistics.median(_round_trips(alone.stdin, alone.stdout, 10))
    with ExitStack() as stack:
        deaf = stack.enter_context(vm.connect(SHELL_PORT))
        deaf.sendall(start_request(Command(argv=("yes",)), None))
        stopped = vm.popen(["sh", "-c", "echo $$; kill -STOP $$"])
        stack.callback(stopped.close)
        pid = int(stopped.stdout.readline())
        flood = vm.popen(["yes"], detach=True)
        flood.detach()
        stack.callback(lambda: vm.exec(["kill", "-9", str(flood.pid)], check=True))
        talkers = [vm.popen(["cat"]) for _ in range(SESSIONS - 3)]
        for talker in talkers:
            stack.callback(talker.close)
        times: list[float] = []
        threads = [
            threading.Thread(
                target=lambda talk: times.extend(talk()),
                args=(partial(_round_trips, talker.stdin, talker.stdout, 10),),
            )
            for talker in talkers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(BOOT_LIMIT_S)
        status = vm.exec(["cat", f"/proc/{pid}/stat"], text=True, check=True).stdout
        assert status.rpartition(") ")[2][:1] == "T"
        assert any(session.pid == flood.pid for session in vm.sessions())
        assert len(times) == 10 * len(talkers)
        assert max(times) < ROUND_TRIP_LIMIT_S
        # All talk at the same time, to one emulated CPU that the flood wants too.
        assert statistics.median(times) < 4 * len(talkers) * max(baseline, 0.002)
    with vm.attach(flood.session_id) as attached:
        assert attached.stdout.read()
        assert attached.wait(BOOT_LIMIT_S) == 137


def test_a_rush_of_connections_is_taken(vm: Machine, runtime_dir: Path) -> None:
    """All at once, before anybody is answered: none is refused, by the host or the guest."""
    path = runtime_dir / vm.name / "vsock.sock"
    with ExitStack() as stack:
        clients = []
        for _ in range(RUSH):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            # As asyncio does it: a client that may not wait for accept.
            client.setblocking(False)
            client.connect(os.fspath(path))
            client.sendall(b"CONNECT %d\n" % FORWARD_PORT)
            clients.append(client)
        for client in clients:
            client.settimeout(BOOT_LIMIT_S)
            assert client.recv(64).startswith(b"OK ")


def _round_trips(stdin: BinaryIO, stdout: BinaryIO, count: int) -> list[float]:
    times = []
    for number in range(count):
        begun = time.monotonic()
        stdin.write(b"%d\n" % number)
        stdin.flush()
        assert stdout.readline() == b"%d\n" % number
        times.append(time.monotonic() - begun)
    return times
