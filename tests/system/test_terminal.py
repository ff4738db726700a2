# SPDX-License-Identifier: Apache-2.0
"""`inn run` on a terminal: a real pseudo-terminal on both sides."""

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

import pytest
from guests import BOOT_LIMIT_S, INN

PROMPT = b"# "


def set_size(fd: int, rows: int, cols: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


class Terminal:
    """A person at a terminal in which `inn run` was typed."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        set_size(slave, 24, 80)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [*INN, "run"],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one thread
        )
        self.seen = b""

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def expect(self, text: bytes) -> bytes:
        """Read until `text` appears; returns what came before it, and forgets both."""
        deadline = time.monotonic() + BOOT_LIMIT_S
        while text not in self.seen:
            if not select.select([self.master], [], [], max(0, deadline - time.monotonic()))[0]:
                pytest.fail(f"no {text!r} in {self.seen!r}")
            self.seen += os.read(self.master, 4096)
        before, _, self.seen = self.seen.partition(text)
        return before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def test_a_shell_on_a_terminal(terminal: Terminal) -> None:
    terminal.expect(PROMPT)
    terminal.type(b"tty; stty size; echo done-$((1+1))\n")
    shown = terminal.expect(b"done-2")
    assert b"/dev/pts/" in shown
    assert b"24 80" in shown

    set_size(terminal.master, 50, 132)
    terminal.expect(PROMPT)
    terminal.type(b"stty size; echo done-$((2+2))\n")
    assert b"50 132" in terminal.expect(b"done-4")

    # Ctrl-C ends the job; the shell and the guest stay.
    terminal.expect(PROMPT)
    terminal.type(b"sh -c 'echo begun-$((1+1)); exec sleep 1000'\n")
    terminal.expect(b"begun-2")
    terminal.type(b"\x03")
    terminal.expect(PROMPT)
    terminal.type(b"echo still-$((40+2))\n")
    terminal.expect(b"still-42")

    terminal.expect(PROMPT)
    terminal.type(b"exit 5\n")
    assert terminal.process.wait(BOOT_LIMIT_S) == 5
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_the_terminal_is_restored_when_inn_is_terminated(terminal: Terminal) -> None:
    terminal.expect(PROMPT)
    assert termios.tcgetattr(terminal.slave) != terminal.before
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.process.wait(BOOT_LIMIT_S) == 143
    assert termios.tcgetattr(terminal.slave) == terminal.before
