# SPDX-License-Identifier: Apache-2.0
"""`machines`: starting what is stopped, and what 1, 5 and 20 guests cost."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import overlays
from tests.bench.guests import plain_argv
from tests.bench.samples import Ratio, Result, Series, interleave
from tests.bench.surroundings import memory_kib
from tests.bench.workspace import BOOT_LIMIT_S, INN, Workspace, run_quietly, timed

OURS = "inn start of a stopped machine, until its agent is ready"
FLOOR = "floor: QEMU, same kernel and initramfs, powers off at once"

_COUNTS = (1, 5, 20)
_QUICK_COUNTS = (1, 2)
_GUEST_MEMORY = "128M"
_KEEPER_TARGET_MB = 35.0


def measure(bench: Workspace) -> Result:
    """Start of one machine with its stages; rate and memory of many."""
    result = Result()
    with state_of_its_own(bench, "machines"):
        _start(bench, result)
        _many(result, _QUICK_COUNTS if bench.quick else _COUNTS)
    return result


def _start(bench: Workspace, result: Result) -> None:
    run_quietly([str(INN), "create", "stopped"])
    stages: dict[str, Series] = {}

    def prepare_and_start() -> float:
        took_s = timed([str(INN), "start", "stopped"])
        record = json.loads(run_quietly([str(INN), "inspect", "--format=json", "stopped"]))
        for name, seconds in _record(record)["stages"].items():
            stages.setdefault(name, Series(f"stage {name}", "s")).values.append(seconds)
        run_quietly([str(INN), "stop", "stopped"])
        return took_s

    floor = plain_argv(bench, overlays.power_off(bench))
    cases: dict[str, Callable[[], float]] = {
        OURS: prepare_and_start,
        FLOOR: functools.partial(timed, floor),
    }
    found = interleave(cases, bench.runs, "s")
    result.add(found)
    for series in stages.values():
        # The first is the round that warms up.
        del series.values[0]
    result.series += stages.values()
    result.compare(found[OURS], found[FLOOR], at_most=1.25)
    run_quietly([str(INN), "rm", "-f", "stopped"])


def _many(result: Result, counts: tuple[int, ...]) -> None:
    for count in counts:
        names = [f"many-{number:02d}" for number in range(count)]
        for name in names:
            run_quietly([str(INN), "create", "--memory", _GUEST_MEMORY, name])
        # One after the other: what a guest costs must not depend on its neighbours.
        each = Series(f"start of one of {count}", "s")
        keepers = Series(f"keeper of {count} guests, PSS each", "MB")
        guests = Series(f"QEMU of {count} guests, PSS each", "MB")
        try:
            for name in names:
                each.values.append(timed([str(INN), "start", name]))
            for name in names:
                pids = json.loads(
                    (Path(os.environ["INN_RUNTIME_DIR"]) / name / "state.json").read_text()
                )
                keepers.values.append(memory_kib(pids["keeper_pid"])["Pss"] * 1024 / 1e6)
                guests.values.append(memory_kib(pids["qemu_pid"])["Pss"] * 1024 / 1e6)
        finally:
            run_quietly([str(INN), "rm", "-f", *names], limit_s=2 * BOOT_LIMIT_S)
        rate = Series(f"guests started in a second, {count}", "1/s", more_is_better=True)
        rate.values.append(count / sum(each.values))
        result.series += [each, rate, keepers, guests]
        result.ratios.append(
            Ratio(keepers.name, keepers.median, at_most=_KEEPER_TARGET_MB, unit="MB")
        )


def _record(inspected: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return inspected["record"]


@contextlib.contextmanager
def state_of_its_own(bench: Workspace, name: str) -> Iterator[None]:
    """Machines of the bench, not of the user who measures."""
    before = os.environ.get("INN_STATE_DIR")
    folder = bench.folder / f"{name}-state"
    folder.mkdir(mode=0o700)
    os.environ["INN_STATE_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["INN_STATE_DIR"]
        else:
            os.environ["INN_STATE_DIR"] = before
