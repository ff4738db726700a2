# SPDX-License-Identifier: Apache-2.0
"""`host-root`: a command on the host's own files, against virtme-ng."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

from tests.bench.samples import Failed, Result, Skipped, interleave
from tests.bench.start import virtme_argv
from tests.bench.workspace import INN, Workspace, timed

OURS = "inn run --root host -- true"
PYTHON = "inn run --root host -- python3 -c pass"
VIRTME = "vng --run bzImage -- true"

_VIRTME_LIMIT_S = 180.0


def measure(bench: Workspace) -> Result:
    """Whole processes, with each cache mode, and virtme-ng with the same kernel."""
    result = Result()
    host = [str(INN), "run", "--root", "host"]
    cases: dict[str, Callable[[], float]] = {OURS: functools.partial(timed, [*host, "--", "true"])}
    for cache in ("never", "auto", "always"):
        name = f"{PYTHON}, --share-cache {cache}"
        argv = [*host, "--share-cache", cache, "--", "/usr/bin/python3", "-c", "pass"]
        cases[name] = functools.partial(timed, argv)
    found = interleave(cases, bench.runs, "s")
    result.add(found)
    kernel = os.environ.get("INN_BENCH_KERNEL")
    try:
        limited = functools.partial(timed, virtme_argv(bench, kernel), limit_s=_VIRTME_LIMIT_S)
        same = [*host, *(("--kernel", kernel) if kernel else ()), "--", "true"]
        pair = {f"{OURS}, as vng": functools.partial(timed, same), VIRTME: limited}
        others = interleave(pair, 1 if bench.quick else 3, "s")
        result.add(others)
        result.compare(others[f"{OURS}, as vng"], others[VIRTME], at_most=0.5)
    except (Skipped, Failed) as reason:
        result.notes.append(f"{VIRTME}: {reason}")
    return result
