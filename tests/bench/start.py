# SPDX-License-Identifier: Apache-2.0
"""`start`: from the command to its exit code, against the floor and virtme-ng."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

from tests.bench import overlays
from tests.bench.guests import plain_argv
from tests.bench.samples import Failed, Result, Series, Skipped, interleave
from tests.bench.workspace import INN, Workspace, run_quietly, timed

OURS = "inn run -- true"
FLOOR = "floor: QEMU, same kernel and initramfs, powers off at once"
COMPRESSED = "floor with the packaged bzImage"
VIRTME = "vng --run bzImage -- true"

_VIRTME_LIMIT_S = 180.0


def measure(bench: Workspace) -> Result:
    """Cold starts, with the phases that ours says it had."""
    result = Result()
    initrd = overlays.power_off(bench)
    phases: dict[str, Series] = {}

    def ours() -> float:
        return timed([str(INN), "run", "--", "true"])

    def with_phases() -> float:
        out = run_quietly([str(INN), "run", "--format=json", "--", "true"])
        timings: dict[str, float] = json.loads(out)["timings"]
        for name, seconds in timings.items():
            phases.setdefault(name, Series(f"phase {name}", "s")).values.append(seconds)
        return timings["total"]

    cases: dict[str, Callable[[], float]] = {
        OURS: ours,
        FLOOR: functools.partial(timed, plain_argv(bench, initrd)),
    }
    source = bench.plan["image"]["kernel_source"]
    if source is not None:
        cases[COMPRESSED] = functools.partial(timed, plain_argv(bench, initrd, kernel=source))
    cases["inn run --format json, its own total"] = with_phases
    found = interleave(cases, bench.runs, "s")
    result.add(found)
    for series in phases.values():
        # The first is the round that warms up.
        del series.values[0]
    result.series += phases.values()
    result.compare(found[OURS], found[FLOOR], at_most=1.25)
    if COMPRESSED in found:
        result.compare(found[OURS], found[COMPRESSED])
    _against_virtme(bench, result, found[OURS])
    return result


def _against_virtme(bench: Workspace, result: Result, ours: Series) -> None:
    """A few runs of virtme-ng with the same kernel, CPU count and memory."""
    try:
        argv = virtme_argv(bench)
        limited = functools.partial(timed, argv, limit_s=_VIRTME_LIMIT_S)
        found = interleave({VIRTME: limited}, 1 if bench.quick else 3, "s", warm_up=0)
    except (Skipped, Failed) as reason:
        result.notes.append(f"{VIRTME}: {reason}")
        return
    result.add(found)
    result.compare(ours, found[VIRTME])


def virtme_argv(bench: Workspace, kernel: str | None = None) -> list[str]:
    """virtme-ng with our kernel, the host's root file system and no KVM where we have none.

    :param kernel: another one, with its modules in /lib/modules.

    :raise Skipped: it is not installed.
    """
    image, machine = bench.plan["image"], bench.plan["machine"]
    vng = bench.tool("vng", "pip install virtme-ng")
    memory = f"{machine['memory_bytes'] >> 20}M"
    # It starts programs of its own by name.
    path = f"PATH={Path(vng).parent}:{bench.environment_path()}"
    argv = [
        "env",
        path,
        vng,
        "--run",
        kernel or image["kernel_source"],
        "--cpus",
        str(machine["cpus"]),
    ]
    argv += ["--memory", memory, "--exec", "true"]
    if bench.plan["host"]["accelerator"]["accel"] != "kvm":
        argv.append("--disable-kvm")
    if kernel is not None:
        # Debian 12's virtiofsd does not take its options, and 9p is on PCI alone.
        argv += ["--force-9p", "--disable-microvm"]
    return argv
