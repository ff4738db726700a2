# SPDX-License-Identifier: Apache-2.0
"""Sessions against every peer: streams, exit codes, signals, limits."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from innkeeper.agent.session import Captured, capture_session
from innkeeper.errors import CommandNotExecutable, CommandNotFound, GuestError, InnError, TimedOut
from innkeeper.model.machine import Command

if TYPE_CHECKING:
    from tests.contract.conftest import Peer

MIB = 1 << 20
BIG = os.urandom(MIB) * 10
BIG_DIGEST = hashlib.sha256(BIG).hexdigest()
ECHO_DIGEST = "import sys,hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"


def capture(peer: Peer, *argv: str, stdin: bytes = b"", **command: Any) -> Captured:
    with peer.connect() as sock:
        return capture_session(sock, Command(argv=argv, **command), stdin=stdin)


def result(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    stdout, stderr = process.communicate(timeout=30)
    return process.returncode, stdout, stderr


def test_streams_are_apart(peer: Peer) -> None:
    got = capture(peer, "/bin/sh", "-c", "echo out; echo err >&2; exit 3")
    assert (got.code, got.stdout, got.stderr) == (3, b"out\n", b"err\n")


@pytest.mark.parametrize("code", [0, 1, 125, 255])
def test_exit_codes(peer: Peer, code: int) -> None:
    assert capture(peer, "/bin/sh", "-c", f"exit {code}").code == code


def test_death_by_signal(peer: Peer) -> None:
    assert capture(peer, "/bin/sh", "-c", "kill -9 $$").code == 137


def test_bytes_are_untouched(peer: Peer) -> None:
    data = bytes(range(256)) * 100
    assert capture(peer, "cat", stdin=data).stdout == data


def test_environment_and_folder(peer: Peer) -> None:
    got = capture(peer, "/bin/sh", "-c", 'echo "$A"; pwd', env={"A": "ä b"}, workdir="/usr")
    assert got.stdout.decode() == "ä b\n/usr\n"


def test_capture_is_bounded(peer: Peer) -> None:
    with peer.connect() as sock:
        command = Command(argv=("head", "-c", "100000", "/dev/zero"))
        got = capture_session(sock, command, max_bytes=1000)
    assert (got.code, len(got.stdout), got.truncated) == (0, 1000, True)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (Command(argv=("no-such-command",)), CommandNotFound),
        (Command(argv=("/no/such",)), CommandNotFound),
        (Command(argv=("/etc/passwd",)), CommandNotExecutable),
        (Command(argv=("/usr",)), CommandNotExecutable),
        (Command(argv=("true",), workdir="/no/such"), GuestError),
        (Command(argv=("true",), workdir="/etc/passwd"), GuestError),
    ],
)
def test_failed_starts(peer: Peer, command: Command, error: type[InnError]) -> None:
    with peer.connect() as sock, pytest.raises(InnError) as raised:
        capture_session(sock, command)
    assert type(raised.value) is error


def test_big_stdin_from_a_pipe(peer: Peer) -> None:
    with peer.start(sys.executable, "-c", ECHO_DIGEST) as process:
        stdout, _ = process.communicate(BIG, timeout=30)
    assert stdout.decode().strip() == BIG_DIGEST
    assert process.returncode == 0


def test_big_stdin_from_a_file(peer: Peer, tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(BIG)
    with path.open("rb") as file, peer.start("cat", stdin=file) as process:
        code, stdout, _ = result(process)
    assert (code, hashlib.sha256(stdout).hexdigest()) == (0, BIG_DIGEST)


def test_output_to_a_file_is_appended_at_its_offset(peer: Peer, tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as file:
        file.write(b"before\n")
        file.flush()
        with peer.start("seq", "100000", stdout=file, stdin=subprocess.DEVNULL) as process:
            assert process.wait(30) == 0
    expected = "before\n" + "".join(f"{number}\n" for number in range(1, 100001))
    assert path.read_text() == expected


def test_null_and_closed_stdin(peer: Peer) -> None:
    with peer.start("cat", stdin=subprocess.DEVNULL) as process:
        assert result(process) == (0, b"", b"")
    with peer.start("cat", stdin=None, preexec_fn=lambda: os.close(0)) as process:
        assert result(process)[0] == 0


def test_end_of_stdin_is_not_the_end(peer: Peer) -> None:
    with peer.start("/bin/sh", "-c", "cat; echo more; exit 4") as process:
        assert process.communicate(b"some\n", timeout=30)[0] == b"some\nmore\n"
        assert process.returncode == 4


def test_slow_stdout_with_large_stdin(peer: Peer) -> None:
    """All of stdin is accepted by us or the guest only as stdout is read: no deadlock."""
    with peer.start("cat") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin = process.stdin
        done = threading.Event()

        def feed() -> None:
            stdin.write(BIG)
            stdin.close()
            done.set()

        feeder = threading.Thread(target=feed)
        feeder.start()
        digest = hashlib.sha256()
        # The reader takes its first byte only once everything is stuck: nothing
        # that it can see happens any more, so it just reads in small pieces.
        while chunk := os.read(process.stdout.fileno(), 1000):
            digest.update(chunk)
        feeder.join(30)
        assert done.is_set()
        assert process.wait(30) == 0
    assert digest.hexdigest() == BIG_DIGEST


def test_stdin_flows_while_stdout_is_stuck(peer: Peer) -> None:
    """Nobody reads stdout, yet the command gets its stdin: the directions are apart."""
    script = "head -c 200000 /dev/zero & cat >/dev/null; echo eof >&2; wait"
    with peer.start("/bin/sh", "-c", script) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"x" * MIB)
        process.stdin.close()
        assert process.stderr.readline() == b"eof\n"
        assert len(process.stdout.read()) == 200000
        assert process.wait(30) == 0


def test_descriptors_stay_blocking(peer: Peer) -> None:
    reader, writer = os.pipe()
    try:
        with peer.start("echo", "x", stdout=writer, stdin=subprocess.DEVNULL) as process:
            assert process.wait(30) == 0
        assert os.get_blocking(writer)
        assert os.read(reader, 10) == b"x\n"
    finally:
        os.close(reader)
        os.close(writer)


def test_reader_of_stdout_leaves(peer: Peer) -> None:
    with peer.start("yes", stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"y\n"
        process.stdout.close()
        assert process.wait(30) == 128 + signal.SIGPIPE
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_reader_of_stderr_leaves(peer: Peer) -> None:
    script = "echo a >&2; read x; seq 100000 >&2; echo end"
    with peer.start("/bin/sh", "-c", script) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"a\n"
        process.stderr.close()
        stdout, _ = process.communicate(b"\n", timeout=30)
        assert (process.returncode, stdout) == (0, b"end\n")


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT"])
def test_signals_are_forwarded(peer: Peer, name: str) -> None:
    script = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do read x; done"
    with peer.start("/bin/sh", "-c", script, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.stdout.readline() == f"got {name}\n".encode()
        assert process.wait(30) == 9


def test_second_interrupt_gives_up(peer: Peer) -> None:
    script = "trap 'echo caught' INT; echo ready; while :; do sleep 100 & wait; done"
    with peer.start("/bin/sh", "-c", script, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"caught\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT


def test_ignored_signals_stay_ignored(peer: Peer) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with peer.start("cat", preexec_fn=ignore) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"a")
        process.stdin.flush()
        assert process.stdout.read(1) == b"a"
        process.send_signal(signal.SIGHUP)
        assert process.communicate(b"b", timeout=30)[0] == b"b"
        assert process.returncode == 0


def test_time_limit_ends_the_command(peer: Peer, tmp_path: Path) -> None:
    script = (
        f"trap 'echo asked > {tmp_path}/asked; exit 0' TERM; while :; do sleep 100 & wait; done"
    )
    command = Command(argv=("/bin/sh", "-c", script))
    with peer.connect() as sock, pytest.raises(TimedOut, match="did not end within"):
        capture_session(sock, command, deadline=time.monotonic() + 0.5, timeout_s=0.5)
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_the_job_ends_with_its_client(
    peer: Peer, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    with peer.start("/bin/sh", "-c", "echo $$; exec sleep 1000") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        process.kill()
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_lost_connection(mortal_agent: Peer) -> None:
    with mortal_agent.start("/bin/sh", "-c", "echo ready; exec cat") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        mortal_agent.process.kill()
        code, _, stderr = result(process)
    assert code == 125
    assert stderr == b"GuestLost: the connection to the guest was lost while the command ran\n"
