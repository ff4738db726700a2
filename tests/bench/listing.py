# SPDX-License-Identifier: Apache-2.0
"""`ls`: how long `inn ls` takes with 200 machines, as a whole process."""

from __future__ import annotations

import functools
import sys

from tests.bench.samples import Ratio, Result, interleave
from tests.bench.workspace import INN, Workspace, timed

from innkeeper.model.machine import Machine
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import create_machine

_MACHINES = 200
_TARGET_MS = 150.0


def measure(bench: Workspace) -> Result:
    """`inn ls` with 200 machines and with none, against a bare interpreter."""
    many, none = bench.folder / "many", bench.folder / "none"
    for folder in (many, none):
        folder.mkdir()
    layout = Layout(
        runtime_dir=str(bench.folder / "run"),
        cache_dir=str(bench.folder / "cache"),
        state_dir=str(many),
    )
    for number in range(_MACHINES):
        create_machine(layout, Machine(name=f"machine-{number:03d}"))
    name = f"inn ls, {_MACHINES} machines"
    cases = {
        name: functools.partial(timed, _ls(many)),
        "inn ls, no machine": functools.partial(timed, _ls(none)),
        "python -c pass": functools.partial(timed, [sys.executable, "-c", "pass"]),
    }
    found = interleave(cases, bench.runs if bench.quick else max(40, bench.runs), "s", warm_up=2)
    result = Result()
    result.add(found)
    milliseconds = found[name].median * 1000
    result.ratios.append(Ratio(name, milliseconds, at_most=_TARGET_MS, unit="ms"))
    result.compare(found[name], found["python -c pass"])
    return result


def _ls(state: object) -> list[str]:
    # Its own environment: the other measurements keep theirs.
    return ["env", f"INN_STATE_DIR={state}", str(INN), "ls"]
