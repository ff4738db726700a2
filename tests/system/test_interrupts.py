# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM at any moment: the right exit code, and nothing left (see the leak guard)."""

from __future__ import annotations

import random
import signal
import subprocess
from pathlib import Path

import pytest
from guests import INN, Start, alive

# From the start of Python to past the end of a boot under emulation.
MOMENTS_S = (0.0, 3.5)


@pytest.mark.timeout(600)
def test_twenty_runs_ten_of_them_interrupted_leave_nothing(runtime_dir: Path) -> None:
    chance = random.Random(20)
    before = set(runtime_dir.iterdir())
    for number in range(20):
        process = subprocess.Popen(
            [*INN, "run", "--", "true"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        sent = None
        if number % 2:
            sent = chance.choice((signal.SIGINT, signal.SIGTERM))
            try:
                process.wait(chance.uniform(*MOMENTS_S))
            except subprocess.TimeoutExpired:
                process.send_signal(sent)
        out, err = process.communicate(timeout=90)
        # A signal that comes when the work is done changes nothing any more;
        # one that comes before Python has a handler kills plainly (-N).
        expected = {0} | ({128 + sent, -sent} if sent is not None else set())
        assert process.returncode in expected, err
        assert out == b""
        assert b"Traceback" not in err
        assert set(runtime_dir.iterdir()) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_guest_boots_ends_the_start(
    start_inn: Start, number: signal.Signals
) -> None:
    running = start_inn("--", "true")
    state = running.wait_state("starting")
    running.process.send_signal(number)
    code, out, error = running.finish()
    assert (code, out, error) == (128 + number, b"", "")
    assert not alive(state["keeper_pid"])
    assert not running.folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_command_runs_goes_to_the_command(
    start_inn: Start, number: signal.Signals
) -> None:
    trap = f"trap 'echo caught; exit 42' {number.name[3:]}; echo up; while :; do sleep 1; done"
    running = start_inn("--", "sh", "-c", trap)
    running.wait_line(b"up\n")
    running.process.send_signal(number)
    code, out, error = running.finish()
    # The shell may tell of its sleep, which got the signal too; inn tells nothing.
    assert (code, out) == (42, b"caught\n")
    assert "inn:" not in error


def test_a_command_that_dies_from_the_signal_says_so(start_inn: Start) -> None:
    running = start_inn("--", "sh", "-c", "echo up; exec sleep 100")
    running.wait_line(b"up\n")
    running.process.send_signal(signal.SIGINT)
    code, _, error = running.finish()
    assert (code, error) == (130, "")
