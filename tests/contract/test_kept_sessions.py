# SPDX-License-Identifier: Apache-2.0
"""Sessions that outlive their connections: against the agent, and against a peer without them."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from innkeeper.agent.attach import KeptSession, list_kept, start_detached
from innkeeper.errors import CommandNotFound, GuestError
from innkeeper.model.machine import Command

if TYPE_CHECKING:
    from tests.contract.conftest import Peer

Eventually = Callable[[Callable[[], bool]], None]
agent_only = pytest.mark.parametrize("peer", ["agent"], indirect=True)

CAPACITY = 256 << 10


def detached(peer: Peer, script: str, *, tty: bool = False, stdin: bool = False) -> str:
    with peer.connect() as sock:
        command = Command(argv=("/bin/sh", "-c", script))
        return start_detached(sock, command, tty=tty, stdin=stdin).session_id


def listed(peer: Peer) -> dict[str, KeptSession]:
    with peer.connect() as sock:
        return {session.id: session for session in list_kept(sock)}


def result(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    stdout, stderr = process.communicate(timeout=30)
    return process.returncode, stdout, stderr


def attached(peer: Peer, session: str, **options: Any) -> tuple[int, bytes, bytes]:
    with peer.start(attach=session, stdin=subprocess.DEVNULL, **options) as process:
        return result(process)


@agent_only
def test_an_ended_session_is_collected_once(peer: Peer, eventually: Eventually) -> None:
    session = detached(peer, "echo out; echo err >&2; cat; exit 7")
    eventually(lambda: listed(peer)[session].exit_code == 7)
    (entry,) = [listed(peer)[session]]
    assert entry.argv == ("/bin/sh", "-c", "echo out; echo err >&2; cat; exit 7")
    assert (entry.tty, entry.attached) == (False, False)
    assert 0 <= entry.age_s < 60
    # The first characters of an id are enough.
    assert attached(peer, session[:5]) == (7, b"out\n", b"dropped 0\nerr\nover\n")
    eventually(lambda: session not in listed(peer))
    code, _, stderr = attached(peer, session)
    assert code == 125
    assert f'no session "{session}"'.encode() in stderr


@agent_only
def test_input_and_signals_reach_a_session_later(peer: Peer) -> None:
    script = "trap 'echo got; exit 9' USR1; echo ready; while read x; do echo $x; done; echo end"
    session = detached(peer, script, stdin=True)
    # Who only looks leaves stdin alone, and is killed: the session runs on.
    with peer.start(attach=session, reads_stdin=False) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert listed(peer)[session].attached
        process.kill()
    with peer.start(attach=session) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        # Seen before or not, the end of the output comes first.
        assert process.stdout.readline() == b"ready\n"
        process.stdin.write(b"typed\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"typed\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == b"got\n"
        assert process.wait(30) == 9


@agent_only
def test_a_detached_process_never_waits_and_its_oldest_output_goes(
    peer: Peer, tmp_path: Path, eventually: Eventually
) -> None:
    done = tmp_path / "done"
    session = detached(peer, f"seq 200000; touch {done}; exec sleep 1000")
    eventually(done.exists)
    whole = "".join(f"{number}\n" for number in range(1, 200001)).encode()
    with peer.start(attach=session, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stderr.readline()
        dropped = int(first.removeprefix(b"dropped "))
        rest = whole[dropped:]
        assert CAPACITY // 2 < len(rest) <= CAPACITY
        assert process.stdout.read(len(rest)) == rest
        # Whoever comes later takes over; the earlier one is told.
        with peer.start(attach=session, reads_stdin=False) as second:
            assert second.stderr is not None
            assert second.stderr.readline() == b"dropped 0\n"
            assert process.wait(30) == 125
            assert b"somebody else attached" in process.stderr.read()
            os.kill(listed(peer)[session].pid, signal.SIGKILL)
            assert result(second)[0] == 137


@agent_only
def test_an_attached_reader_that_stops_holds_the_process_and_loses_nothing(peer: Peer) -> None:
    session = detached(peer, "read x; seq 400000", stdin=True)
    with peer.start(attach=session) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        select.select([process.stdout], [], [], 30)
        got = process.stdout.read()
        assert got == "".join(f"{number}\n" for number in range(1, 400001)).encode()
        assert process.wait(30) == 0


class Terminal:
    """A person at a terminal with a session on it."""

    def __init__(self, peer: Peer, *argv: str, **options: Any) -> None:
        self.master, self.slave = pty.openpty()
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), self.slave)
        self._started = peer.start(*argv, start_new_session=True, **ends, **options)
        self.process = self._started.__enter__()
        self.seen = b""

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def expect(self, text: bytes) -> None:
        deadline = time.monotonic() + 30
        while text not in self.seen:
            left = max(0, deadline - time.monotonic())
            if not select.select([self.master], [], [], left)[0]:
                pytest.fail(f"no {text!r} in {self.seen!r}")
            self.seen += os.read(self.master, 4096)
        self.seen = self.seen.partition(text)[2]

    def close(self) -> None:
        self._started.__exit__(None, None, None)
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminals(peer: Peer) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(*argv: str, **options: Any) -> Terminal:
        made.append(Terminal(peer, *argv, **options))
        return made[-1]

    yield make
    for terminal in made:
        terminal.close()


@agent_only
def test_a_terminal_is_left_by_keys_and_by_death(
    peer: Peer, terminals: Callable[..., Terminal]
) -> None:
    script = 'trap "stty size" WINCH; echo begun; while :; do read x && echo "got $x"; done'
    first = terminals("/bin/sh", "-c", script, kept=True)
    first.expect(b"begun")
    (session,) = (name for name, entry in listed(peer).items() if entry.attached)
    # A prefix that is not followed by its "d" is input like any other.
    first.type(b"\x1dx\n")
    first.expect(b"got \x1dx")
    first.type(b"\x1dd")
    first.expect(f"left {session}".encode())
    assert first.process.wait(30) == 0
    assert not listed(peer)[session].attached

    second = terminals(attach=session)
    second.expect(b"begun")
    # A program that draws the screen is told to, even at the same size.
    second.expect(b"24 80")
    second.process.kill()
    second.process.wait()

    third = terminals(attach=session)
    third.expect(b"dropped 0")
    third.expect(b"begun")
    assert listed(peer)[session].tty
    third.process.send_signal(signal.SIGHUP)
    third.expect(f"left {session}".encode())
    assert third.process.wait(30) == 128 + signal.SIGHUP
    os.kill(listed(peer)[session].pid, signal.SIGKILL)
    code, stdout, _ = attached(peer, session)
    assert code == 137
    assert b"got" in stdout


@agent_only
def test_where_and_as_whom(peer: Peer, tmp_path: Path) -> None:
    session = detached(peer, f"cd {tmp_path}; echo ready; exec sleep 1000")
    with peer.start(attach=session, reads_stdin=False) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        pid = listed(peer)[session].pid
        with peer.start("pwd", workdir_of=pid, stdin=subprocess.DEVNULL) as other:
            assert result(other) == (0, f"{tmp_path}\n".encode(), b"")
        os.kill(pid, signal.SIGTERM)
        assert process.wait(30) == 143
    with peer.start("pwd", workdir_of=pid, stdin=subprocess.DEVNULL) as other:
        code, _, stderr = result(other)
    assert code == 125
    assert re.search(rb"/proc/\d+/cwd: No such file", stderr)


def test_their_number_is_bounded(mortal_agent: Peer) -> None:
    first = detached(mortal_agent, "exit 3")
    running = [detached(mortal_agent, "exec sleep 1000")]
    with pytest.raises(CommandNotFound), mortal_agent.connect() as sock:
        start_detached(sock, Command(argv=("/no/such",)), tty=False, stdin=False)
    while first in listed(mortal_agent):
        assert len(running) < 64
        running.append(detached(mortal_agent, "exec sleep 1000"))
    assert len(running) == 64
    with pytest.raises(GuestError, match="64 kept sessions are running"):
        detached(mortal_agent, "exec sleep 1000")
    assert list(listed(mortal_agent)) == running
    for entry in listed(mortal_agent).values():
        os.kill(entry.pid, signal.SIGKILL)


@pytest.mark.parametrize("peer", ["fake"], indirect=True)
def test_a_peer_without_kept_sessions(peer: Peer) -> None:
    with pytest.raises(GuestError, match="keeps no sessions"):
        listed(peer)
    with pytest.raises(GuestError, match="keeps no sessions"):
        detached(peer, "exec sleep 1000")
