# SPDX-License-Identifier: Apache-2.0
"""Sessions with a terminal: a real pair of pseudo-terminals around the client."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.contract.conftest import Peer


class Screen:
    """The master's side of a terminal, with a client at the other side."""

    def __init__(self, master: int, slave: int) -> None:
        self.master = master
        self.slave = slave
        self.text = b""

    def modes(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def resize(self, rows: int, cols: int) -> None:
        """The kernel sends SIGWINCH to the foreground group, if there is one."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, cols, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def wait_for(self, text: bytes) -> None:
        """Read until `text` appears; drops everything up to its end."""
        deadline = time.monotonic() + 20
        while text not in self.text:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"no {text!r} in {self.text!r}"
            if select.select([self.master], [], [], left_s)[0]:
                self.text += os.read(self.master, 65536)
        self.text = self.text.partition(text)[2]


@pytest.fixture
def screen() -> Iterator[Screen]:
    master, slave = os.openpty()
    try:
        made = Screen(master, slave)
        made.resize(30, 90)
        yield made
    finally:
        os.close(master)
        os.close(slave)


@contextlib.contextmanager
def session(peer: Peer, screen: Screen, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A client whose controlling terminal is the screen."""

    def own_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    ends = dict.fromkeys(("stdin", "stdout", "stderr"), screen.slave)
    options = {**ends, "start_new_session": True, "preexec_fn": own_terminal, "tty": True}
    with peer.start(*argv, **options) as process:
        yield process


def finish(screen: Screen, process: subprocess.Popen[bytes]) -> int:
    """The exit code, while the screen is read as a terminal emulator does."""
    deadline = time.monotonic() + 20
    while process.poll() is None:
        assert time.monotonic() < deadline
        if select.select([screen.master], [], [], 0.01)[0]:
            screen.text += os.read(screen.master, 65536)
    return process.returncode


def test_modes_and_size(peer: Peer, screen: Screen) -> None:
    before = screen.modes()
    script = "test -t 0 && test -t 1 && test -t 2 && stty size; echo TERM=$TERM; read x; exit 6"
    with session(peer, screen, "/bin/sh", "-c", script) as process:
        screen.wait_for(b"30 90\r\n")
        screen.wait_for(b"TERM=")
        during = screen.modes()
        screen.type(b"\r")
        assert finish(screen, process) == 6
    assert not during[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    assert screen.modes() == before


def test_resize_is_seen(peer: Peer, screen: Screen) -> None:
    script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do read x; done"
    with session(peer, screen, "/bin/sh", "-c", script) as process:
        screen.wait_for(b"ready\r\n")
        screen.resize(40, 100)
        screen.wait_for(b"40 100\r\n")
        assert finish(screen, process) == 0


def test_interrupt_key_reaches_only_the_job(peer: Peer, screen: Screen) -> None:
    script = "trap 'echo caught' INT; echo ready; read line; echo \"line=$line\"; exit 5"
    with session(peer, screen, "/bin/bash", "-c", script) as process:
        screen.wait_for(b"ready\r\n")
        screen.type(b"\x03")
        screen.wait_for(b"caught\r\n")
        assert process.poll() is None
        screen.type(b"hi\r")
        screen.wait_for(b"line=hi\r\n")
        assert finish(screen, process) == 5


def test_end_key(peer: Peer, screen: Screen) -> None:
    with session(peer, screen, "cat") as process:
        screen.type(b"abc\r")
        screen.wait_for(b"abc\r\nabc\r\n")
        screen.type(b"\x04")
        assert finish(screen, process) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_modes_are_restored_after_a_signal(
    peer: Peer, screen: Screen, number: signal.Signals
) -> None:
    before = screen.modes()
    with session(peer, screen, "/bin/sh", "-c", "echo ready; exec sleep 1000") as process:
        screen.wait_for(b"ready\r\n")
        assert screen.modes() != before
        process.send_signal(number)
        assert finish(screen, process) == 128 + number
    assert screen.modes() == before


def test_modes_are_kept_after_a_failed_start(peer: Peer, screen: Screen) -> None:
    before = screen.modes()
    with session(peer, screen, "no-such-command") as process:
        assert finish(screen, process) == 127
    assert screen.modes() == before


def test_modes_are_restored_after_a_lost_connection(mortal_agent: Peer, screen: Screen) -> None:
    before = screen.modes()
    with session(mortal_agent, screen, "/bin/sh", "-c", "echo ready; exec cat") as process:
        screen.wait_for(b"ready\r\n")
        mortal_agent.process.kill()
        screen.wait_for(b"GuestLost: the connection to the guest was lost")
        assert finish(screen, process) == 125
    assert screen.modes() == before
