# SPDX-License-Identifier: Apache-2.0
"""`memory`: what a running guest costs beside QEMU, and what the image weighs."""

from __future__ import annotations

import functools
import threading
from pathlib import Path

from tests.bench import overlays
from tests.bench.guests import HeldGuest, held_guest, plain_argv
from tests.bench.samples import Failed, Ratio, Result, Series, interleave
from tests.bench.surroundings import memory_kib
from tests.bench.workspace import Workspace, timed

import innkeeper
from innkeeper.agent.connect import connect_port
from innkeeper.agent.session import Stdio, run_session
from innkeeper.model.machine import Command
from innkeeper.switchboard.ports import SHELL_PORT

_TARGET_MB = 35.0
_SAMPLE_S = 0.02
_STREAM = ("head", "-c", "67108864", "/dev/zero")

FULL = "floor boot, the image's initramfs"
MINIMAL = "floor boot, nothing but /init"


def measure(bench: Workspace) -> Result:
    """Memory of the keeper, sizes, and the boot time that the initramfs costs."""
    result = Result()
    ready = Series("keeper, PSS at ready", "MB")
    peak = Series("keeper, PSS peak while 64 MiB stream", "MB")
    private = Series("keeper, private part at ready", "MB")
    guest_memory = Series("keeper, guest memory (shared) in its PSS at the peak", "MB")
    for _ in range(1 if bench.quick else 3):
        # A name each: the folder of the guest before may still be on its way out.
        with held_guest(
            bench, f"bench-memory{len(ready.values)}", ("sh", "-c", "echo READY; cat"), b"READY\n"
        ) as guest:
            fields = memory_kib(guest.pid("keeper"))
            ready.values.append(_megabytes(fields, "Pss"))
            private.values.append(_megabytes(fields, "Private_Clean", "Private_Dirty"))
            most = _peak(guest)
            peak.values.append(_megabytes(most, "Pss"))
            guest_memory.values.append(_megabytes(most, "Pss_Shmem"))
    result.series += [ready, peak, private, guest_memory]
    for series in (ready, peak):
        result.ratios.append(Ratio(series.name, series.median, at_most=_TARGET_MB, unit="MB"))
    result.series += _sizes(bench)
    _boot_cost(bench, result)
    return result


def _megabytes(fields: dict[str, int], *names: str) -> float:
    return sum(fields[name] for name in names) * 1024 / 1e6


def _peak(guest: HeldGuest) -> dict[str, int]:
    """The reading with the largest PSS while a command's output streams to /dev/null."""
    keeper = guest.pid("keeper")
    readings = [memory_kib(keeper)]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLE_S):
            readings.append(memory_kib(keeper))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with Path("/dev/null").open("r+b") as null:
            stdio = Stdio(null.fileno(), null.fileno(), null.fileno())
            with connect_port(guest.vsock, SHELL_PORT, timeout_s=30) as sock:
                code = run_session(sock, Command(argv=_STREAM), stdio, tty=False)
    finally:
        done.set()
        watcher.join()
    if code != 0:
        raise Failed(f"the stream ended with code {code}")
    return max(readings, key=lambda fields: fields["Pss"])


def _sizes(bench: Workspace) -> list[Series]:
    image = bench.plan["image"]
    found = [
        Series("initramfs", "MB", [Path(image["initrd"]).stat().st_size / 1e6]),
        Series("kernel, unpacked", "MB", [Path(image["kernel"]).stat().st_size / 1e6]),
    ]
    guest = Path(innkeeper.__file__).parent / "_guest"
    agents = [path for path in sorted(guest.rglob("*")) if path.is_file()]
    return found + [
        Series(f"{path.name} in the image", "MB", [path.stat().st_size / 1e6]) for path in agents
    ]


def _boot_cost(bench: Workspace, result: Result) -> None:
    cases = {
        FULL: functools.partial(timed, plain_argv(bench, overlays.power_off(bench))),
        MINIMAL: functools.partial(timed, plain_argv(bench, overlays.minimal(bench))),
    }
    found = interleave(cases, bench.runs, "s")
    result.add(found)
    result.compare(found[FULL], found[MINIMAL])
    cost_ms = (found[FULL].median - found[MINIMAL].median) * 1000
    result.ratios.append(Ratio("boot time that the initramfs costs", cost_ms, unit="ms"))
