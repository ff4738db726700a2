# SPDX-License-Identifier: Apache-2.0
"""The README's commands and its program, as they stand there, in their order."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from console_blocks import blocks, steps
from guests import BOOT_LIMIT_S
from terminals import Terminal

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"

# Hosts need not have curl; the README's users mostly do. Ours waits for a port
# that takes longer on a busy host.
PRELUDE = """
set -e
inn() { .venv/bin/inn "$@"; }
curl() { "$PYTHON" -c '
import sys, time, urllib.request
end = time.monotonic() + 20
while True:
    try:
        page = urllib.request.urlopen("http://" + sys.argv[1], timeout=20)
        break
    except OSError:
        if time.monotonic() > end:
            raise
print(page.read().decode(), end="")' "$@"; }
"""


def use_shell(terminal: Terminal) -> None:
    terminal.expect(b"# ")
    terminal.type(b"uname; exit\n")
    terminal.expect(b"Linux")


def use_console(terminal: Terminal) -> None:
    terminal.expect(b"Ctrl-] detaches")
    terminal.type(b"\x1d")
    terminal.expect(b"detached")


# What a person does at a terminal.
PEOPLE: dict[str, Callable[[Terminal], None]] = {
    ".venv/bin/inn run": use_shell,
    "inn shell web": use_shell,
    "inn console web": use_console,
}


def commands(block: str) -> list[str]:
    """The commands of a console block."""
    return [step.command for step in steps(block)]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def run(command: str) -> str:
    done = subprocess.run(
        ["bash", "-c", PRELUDE + command],
        cwd=ROOT,
        env={**os.environ, "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def follow(steps: list[str]) -> str:
    """Do what the README says; returns all that was printed to nobody."""
    printed = []
    for step in steps:
        if step not in PEOPLE:
            printed.append(run(step))
            continue
        terminal = Terminal(*step.partition("inn ")[2].split())
        try:
            PEOPLE[step](terminal)
            assert terminal.process.wait(BOOT_LIMIT_S) == 0
        finally:
            terminal.close()
    return "".join(printed)


@pytest.mark.slow
def test_thirty_seconds_of_use() -> None:
    steps = [step.replace("; echo $?", " || echo $?") for step in commands(console(0))]
    assert ".venv/bin/inn run" in steps
    printed = follow(steps)
    assert "out\n7\n" in printed
    assert re.search(r"^[0-9a-f]{64}  -$", printed, re.MULTILINE)
    assert "10.0.2.15/24" in printed
    assert "OK    qemu" in printed


@pytest.mark.parametrize(
    "verb",
    [
        "create",
        "start",
        "shell",
        "exec",
        "cp",
        "logs",
        "console",
        "set",
        "pause",
        "resume",
        "stop",
        "rm",
    ],
)
def test_the_tour_shows(verb: str) -> None:
    assert f"inn {verb} " in console(1)


def test_machines_that_stay() -> None:
    published, listening = free_ports(2)
    steps = commands(console(1).replace("8080", str(published)).replace("8081", str(listening)))
    try:
        printed = follow(steps)
    finally:
        run("inn rm -f web")
    # From the published port, and from the forwarded one.
    assert printed.count("hello\n") == 2
    assert re.search(r"^web +running", printed, re.MULTILINE)


def test_the_program() -> None:
    (program,) = blocks(README, "python")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=BOOT_LIMIT_S,
        check=True,
    )
    assert re.match(r"[0-9]+\.[0-9]+\.", done.stdout)


def console(number: int) -> str:
    return blocks(README, "console")[number]
