# SPDX-License-Identifier: Apache-2.0
"""`version`: how long the command line takes to say something without a guest."""

from __future__ import annotations

import functools
import sys

from tests.bench.samples import Ratio, Result, interleave
from tests.bench.workspace import INN, Workspace, timed

_TARGET_MS = 60.0


def measure(bench: Workspace) -> Result:
    """`inn --version` and `inn --help` against a bare interpreter."""
    python = sys.executable
    cases = {
        "inn --version": functools.partial(timed, [str(INN), "--version"]),
        "inn --help": functools.partial(timed, [str(INN), "--help"]),
        "inn run --help": functools.partial(timed, [str(INN), "run", "--help"]),
        "python -c pass": functools.partial(timed, [python, "-c", "pass"]),
    }
    found = interleave(cases, bench.runs if bench.quick else max(40, bench.runs), "s", warm_up=2)
    result = Result()
    result.add(found)
    for name in ("inn --version", "inn --help"):
        milliseconds = found[name].median * 1000
        result.ratios.append(Ratio(name, milliseconds, at_most=_TARGET_MS, unit="ms"))
        result.compare(found[name], found["python -c pass"])
    return result
