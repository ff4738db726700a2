# SPDX-License-Identifier: Apache-2.0
"""`inn console`: a shell on the serial line, several at it, and every way to leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guests import BOOT_LIMIT_S, INN, Inn
from terminals import Terminal

Sit = Callable[..., Terminal]
PROMPT = b"# "


@pytest.fixture(scope="module")
def box(state_dir: Path) -> Iterator[str]:
    """A machine with a shell on its console, which runs for all tests of this file."""
    create = ["create", "conbox", "--append", "inn.console=shell"]
    for arguments in (create, ["start", "conbox"]):
        subprocess.run([*INN, *arguments], check=True, capture_output=True)
    yield "conbox"
    subprocess.run([*INN, "rm", "-f", "conbox"], check=True, capture_output=True)


@pytest.fixture
def sit() -> Iterator[Sit]:
    """Type `inn console ...` at a terminal of its own; closed at the end."""
    seats: list[Terminal] = []

    def make(*arguments: str) -> Terminal:
        seats.append(Terminal("console", *arguments))
        return seats[-1]

    yield make
    for seat in seats:
        seat.close()


def test_a_shell_on_the_console_and_the_escape_key(box: str, sit: Sit) -> None:
    one = sit(box)
    one.expect(b"Ctrl-] detaches")
    one.type(b"\n")
    one.expect(PROMPT)
    one.type(b"tty; echo done-$((1+1))\n")
    assert b"/dev/ttyS0" in one.expect(b"done-2")
    # Ctrl-C ends the job in the guest, not us: the line is its controlling terminal.
    one.type(b"echo begun-$((1+1)); sleep 1000\n")
    one.expect(b"begun-2")
    one.type(b"\x03")
    one.expect(PROMPT)
    one.type(b"echo unsent\x1dnothing of this\n")
    one.expect(b"inn: detached; conbox goes on")
    assert one.process.wait(BOOT_LIMIT_S) == 0
    assert termios.tcgetattr(one.slave) == one.before

    again = sit(box)
    again.expect(b"echo unsent")  # the past is shown, with the bytes before the key
    again.type(b"\x03\nexit\n")
    again.expect(b"built-in shell")  # another shell follows one that ended
    again.process.send_signal(signal.SIGTERM)
    assert again.process.wait(BOOT_LIMIT_S) == 143
    assert termios.tcgetattr(again.slave) == again.before


def test_all_see_the_same_and_who_only_reads_sends_nothing(box: str, sit: Sit) -> None:
    one, reader = sit(box), sit("--read-only", box)
    reader.expect(b"Ctrl-] detaches")
    reader.type(b"echo from-$((6+1))-reader\n")
    one.type(b"\necho seen-$((5+1))\n")
    reader.expect(b"seen-6")
    one.expect(b"seen-6")
    reader.type(b"\x03")
    reader.expect(b"detached")
    assert reader.process.wait(BOOT_LIMIT_S) == 0
    one.type(b"echo last-$((1+1))\n")
    assert b"from-7" not in one.expect(b"last-2")


def test_pipes_carry_every_byte(box: str) -> None:
    process = subprocess.Popen(
        [*INN, "console", box],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\nprintf 'pi%s-\\035-after\\n' ped\n")
    process.stdin.close()
    seen = b""
    while b"piped-\x1d-after" not in seen:
        seen += os.read(process.stdout.fileno(), 4096)
    assert process.poll() is None, "the end of stdin is no end"
    process.send_signal(signal.SIGINT)
    assert process.wait(BOOT_LIMIT_S) == 130
    process.stdout.close()
    assert process.stderr is not None
    process.stderr.close()


def test_a_reader_that_sleeps_holds_up_nobody_and_is_told(inn: Inn, box: str) -> None:
    process = subprocess.Popen(
        [*INN, "console", box],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert process.stdout is not None
    assert b"at the console" in process.stderr.readline()
    # Nobody reads: 64 KiB of pipe, 256 KiB here, 256 KiB and a socket in the keeper.
    flood = "head -c 3000000 /dev/zero | tr '\\0' x > /dev/ttyS0; echo over"
    assert inn("exec", box, "--", "sh", "-c", flood).stdout == b"over\n"
    seen = bytearray()
    while b" bytes lost]\r\n" not in seen:
        seen += os.read(process.stdout.fileno(), 65536)
    assert len(seen) < 2_000_000
    process.terminate()
    process.communicate(timeout=30)


def test_the_end_of_the_guest_is_the_end(inn: Inn, sit: Sit) -> None:
    assert inn("create", "conend").code == 0
    try:
        assert inn("console", "conend").code == 125
        assert inn("start", "conend").code == 0
        seat = sit("conend")
        seat.expect(b"Ctrl-] detaches")
        watching = subprocess.Popen(
            [*INN, "console", "conend"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert watching.stderr is not None
        watching.stderr.readline()
        assert inn("stop", "conend").code == 0
        seat.expect(b"inn: the guest conend is stopped")
        assert seat.process.wait(BOOT_LIMIT_S) == 0
        assert termios.tcgetattr(seat.slave) == seat.before
        assert b"the guest conend is stopped" in watching.communicate(timeout=30)[1]
        assert watching.returncode == 0

        assert inn("start", "conend").code == 0
        seat = sit("conend")
        seat.expect(b"Ctrl-] detaches")
        record = json.loads(inn("inspect", "conend", "--format", "json").stdout)["record"]
        os.kill(record["keeper_pid"], signal.SIGKILL)
        seat.expect(b"its keeper died")
        assert termios.tcgetattr(seat.slave) == seat.before
    finally:
        assert inn("rm", "-f", "conend").code == 0
