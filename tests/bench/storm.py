# SPDX-License-Identifier: Apache-2.0
"""`storm`: what a guest that connects without end does to others that reach the same guest."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator

from tests.bench.machines import state_of_its_own
from tests.bench.samples import Failed, Result, Series
from tests.bench.workspace import INN, Workspace, run_quietly, running

QUIET = "connect and 64 bytes there and back, nobody else"
STORM = "the same while another guest connects to the same port from 8 processes"

_FILE = """\
name = "storm"
[machines.left]
memory = "128M"
[machines.right]
memory = "128M"
[machines.crowd]
memory = "128M"
[[policy]]
from = "*"
to = "right"
port = 7
"""
_AT_MOST = 2.0
# What one run's median is of.
_EXCHANGES = 200


def measure(bench: Workspace) -> Result:
    """Medians of one guest's exchanges, with and without the other's storm, in turns."""
    quiet, storm = Series(QUIET, "s"), Series(STORM, "s")
    rate = Series("connects of the storm in a second", "1/s", more_is_better=True)
    with state_of_its_own(bench, "storm"), _up(bench) as cid:
        for number in range(bench.runs + 1):
            for series in (quiet, storm):
                with contextlib.ExitStack() as stack:
                    if series is storm:
                        stack.enter_context(_storming(bench, cid, rate))
                    _sample(series, cid, keep=number > 0)
    result = Result()
    result.add({series.name: series for series in (quiet, storm, rate)})
    result.compare(storm, quiet, at_most=_AT_MOST)
    return result


def _sample(series: Series, cid: str, *, keep: bool) -> None:
    try:
        told = _in("left", "streams", "ping", cid, "7", str(_EXCHANGES)).split()
    except Failed as reason:
        series.failed += 1
        series.reason = str(reason)
        return
    if keep:
        series.values.append(int(told[told.index(b"median_us") + 1]) / 1e6)


@contextlib.contextmanager
def _up(bench: Workspace) -> Iterator[str]:
    """The guests with their program, Right's answers; yields Right's CID."""
    program = bench.compiled("../system/streams.c", "-static", "-O2")
    file = bench.folder / "storm.toml"
    file.write_text(_FILE)
    run_quietly([str(INN), "up", str(file)])
    try:
        for name in ("left", "right", "crowd"):
            run_quietly([str(INN), "cp", str(program), f"{name}:/usr/bin/streams"])
        (topology,) = json.loads(run_quietly([str(INN), "ps", "--format=json"]))["topologies"]
        cids = {machine["name"]: str(machine["cid"]) for machine in topology["machines"]}
        with _started(bench, "right", "serve", "7", said=b"listening\n"):
            yield cids["right"]
    finally:
        run_quietly([str(INN), "down", "storm"])


@contextlib.contextmanager
def _started(
    bench: Workspace, guest: str, *command: str, said: bytes
) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a guest, once it has said something on stderr."""
    argv = [str(INN), "exec", guest, "--", "sh", "-c", f"exec streams {' '.join(command)} 2>&1"]
    with running(argv, log=bench.folder / "storm.log", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != said:
            raise Failed(f"{command[0]} in {guest} did not begin")
        yield process


@contextlib.contextmanager
def _storming(bench: Workspace, cid: str, rate: Series) -> Iterator[None]:
    """Crowd connects to Right for as long as the block lasts."""
    _in("crowd", "rm", "-f", "/tmp/stop")
    began = _uptime()
    with _started(bench, "crowd", "storm", cid, "7", said=b"storming\n") as storm:
        try:
            yield
        finally:
            _in("crowd", "touch", "/tmp/stop")
            assert storm.stdout is not None
            told = storm.stdout.read().split()
            rate.values.append(int(told[1]) / (_uptime() - began))


def _uptime() -> float:
    return float(_in("crowd", "cat", "/proc/uptime").split()[0])


def _in(guest: str, *command: str) -> bytes:
    return run_quietly([str(INN), "exec", guest, "--", *command])
