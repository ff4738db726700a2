# SPDX-License-Identifier: Apache-2.0
"""`exec`: how long the command `true` takes in a running guest, against OpenSSH into it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.guests import held_guest
from tests.bench.samples import Failed, Result, Series, Skipped
from tests.bench.ssh_guest import ssh_guest
from tests.bench.workspace import INN, Workspace, timed

from innkeeper import Machine
from innkeeper.agent.connect import connect_port
from innkeeper.agent.session import exec_capture
from innkeeper.model.machine import Command
from innkeeper.switchboard.ports import SHELL_PORT

OURS = "exec over the shell protocol, from Python"
OURS_PROCESS = "inn exec NAME -- true, the whole process"
API = 'Machine.exec(["true"]) of the Python API'
SSH = "ssh guest true"
SSH_SHARED = "ssh guest true over a master connection"

# Per round; ssh takes much longer, and the ratio needs its median only.
_EXEC_PER_ROUND = 10
_SHARED_PER_ROUND = 3


def exec_once(vsock: Path) -> float:
    """Seconds from dialling to the exit code."""
    begun = time.perf_counter()
    with connect_port(vsock, SHELL_PORT, timeout_s=30) as sock:
        captured = exec_capture(sock, Command(argv=("true",)), timeout_s=30)
    took_s = time.perf_counter() - begun
    if captured.code != 0:
        raise Failed(f"true ended with code {captured.code}: {captured.stderr!r}")
    return took_s


def measure(bench: Workspace) -> Result:
    """Round trips, against ssh where its server is installed."""
    rounds = 3 if bench.quick else 25
    result = Result()
    try:
        with ssh_guest(bench) as served:
            vsock = served.guest.vsock
            machine = Machine.get(served.guest.name)
            cases: dict[str, tuple[int, Callable[[], float]]] = {
                OURS: (_EXEC_PER_ROUND, lambda: exec_once(vsock)),
                API: (_EXEC_PER_ROUND, lambda: _exec_by_api(machine)),
                OURS_PROCESS: (1, lambda: _exec_in_process(served.guest.name)),
                SSH: (1, lambda: timed(served.fresh)),
                SSH_SHARED: (_SHARED_PER_ROUND, lambda: timed(served.shared)),
            }
            found = _rounds(cases, rounds)
    except Skipped as reason:
        result.notes.append(f"ssh: {reason}")
        with held_guest(bench, "bench-exec", ("sh", "-c", "echo READY; cat"), b"READY\n") as guest:
            vsock = guest.vsock
            found = _rounds({OURS: (_EXEC_PER_ROUND, lambda: exec_once(vsock))}, rounds)
    result.add(found)
    if SSH in found:
        result.compare(found[OURS], found[SSH], at_most=0.25)
        result.compare(found[OURS], found[SSH_SHARED], at_most=0.25)
        result.compare(found[API], found[OURS], at_most=2.0)
        result.compare(found[OURS_PROCESS], found[SSH], at_most=0.5)
        result.compare(found[OURS_PROCESS], found[SSH_SHARED])
    return result


def _exec_by_api(machine: Machine) -> float:
    begun = time.perf_counter()
    machine.exec(["true"], check=True)
    return time.perf_counter() - begun


def _exec_in_process(name: str) -> float:
    return timed([str(INN), "exec", name, "--", "true"])


def _rounds(cases: dict[str, tuple[int, Callable[[], float]]], rounds: int) -> dict[str, Series]:
    """Every case `count` times in each round; the first round is thrown away."""
    found = {name: Series(name, "s") for name in cases}
    for number in range(rounds + 1):
        for name, (count, once) in cases.items():
            values = [once() for _ in range(count)]
            if number > 0:
                found[name].values += values
    return found
