# SPDX-License-Identifier: Apache-2.0
"""`inn run` on a terminal: a real pseudo-terminal on both sides."""

from __future__ import annotations

import signal
import termios
from collections.abc import Iterator

import pytest
from guests import BOOT_LIMIT_S
from terminals import Terminal, set_size

PROMPT = b"# "


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal("run")
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
