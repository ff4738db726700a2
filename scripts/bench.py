# SPDX-License-Identifier: Apache-2.0
"""Measure innkeeper against its floor and its competitors: `make bench`.

Prints medians and ratios of one run, and writes them as JSON. It asserts
nothing: a time says something about the host that it was taken on.
docs/benchmarks.md explains the numbers.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import NoReturn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.bench import report, surroundings  # noqa: E402 - found through the line above
from tests.bench.samples import Failed, Result, Skipped  # noqa: E402
from tests.bench.workspace import Workspace, run_quietly  # noqa: E402

# Name on the command line to module of tests/bench, in the order in which they run.
MEASUREMENTS = {
    "start": "start",
    "version": "version",
    "ls": "listing",
    "machines": "machines",
    "images": "images",
    "exec": "round_trip",
    "host-root": "host_root",
    "shares": "shares",
    "vsock": "vsock",
    "switchboard": "switchboard",
    "memory": "memory",
    "disks": "disks",
    "storm": "storm",
    "rings": "rings",
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, metavar="NAME")
    parser.add_argument("--runs", type=int, default=10, help="samples per case [10]")
    parser.add_argument("--quick", action="store_true", help="few and small, to see that it works")
    parser.add_argument(
        "--json",
        default=str(ROOT / "target" / "bench.json"),
        metavar="FILE",
        help="where the results go as JSON; - is stdout, after the table [target/bench.json]",
    )
    parser.add_argument("--tools", type=Path, metavar="DIR", help="competitors not in PATH")
    parser.add_argument(
        "--wait-quiet",
        type=float,
        default=120,
        metavar="SECONDS",
        help="how long each measurement waits for a host that does nothing else [120]",
    )
    return parser.parse_args()


def run_one(name: str, bench: Workspace, wait_s: float) -> dict[str, object]:
    """One measurement, printed; its part of the JSON file."""
    busy = None if bench.quick else surroundings.wait_for_quiet(wait_s)
    before, others = surroundings.load(), surroundings.Others()
    print(f"-- {name}: load average before: {before}", flush=True)
    try:
        result: Result = importlib.import_module(f"tests.bench.{MEASUREMENTS[name]}").measure(bench)
    except (Skipped, Failed, OSError) as reason:
        kind = "skipped" if isinstance(reason, Skipped) else "failed"
        print(f"== {name}: {kind}: {reason}\n", flush=True)
        return {kind: str(reason)}
    if busy is not None:
        result.notes.append(busy)
    after, busy_others = surroundings.load(), others.busy_cpus()
    print(report.render(name, result))
    print(f"  load average after: {after}; others kept {busy_others:.2f} CPUs busy\n", flush=True)
    return {
        "load_before": before,
        "load_after": after,
        "cpus_busy_with_others": round(busy_others, 3),
        "series": [series.as_dict() for series in result.series],
        "ratios": [ratio.as_dict() for ratio in result.ratios],
        "notes": result.notes,
    }


def measure(options: argparse.Namespace) -> dict[str, object]:
    """All that was asked for; nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="inn-bench-", dir="/tmp") as name:
        # Apart from the user's guests, and short: a Unix socket's path holds 107 bytes.
        os.environ["INN_RUNTIME_DIR"] = f"{name}/run"
        bench = Workspace(
            folder=Path(name), runs=options.runs, quick=options.quick, tools=options.tools
        )
        # Builds the image and probes the accelerator, where that was never done.
        run_quietly([str(Path(sys.executable).parent / "inn"), "run", "--", "true"], limit_s=600)
        host = surroundings.describe(bench.plan)
        print("\n".join(f"{key:>12}: {value}" for key, value in host.items()) + "\n", flush=True)
        wanted = [name for name in MEASUREMENTS if not options.only or name in options.only]
        found = {name: run_one(name, bench, options.wait_quiet) for name in wanted}
    return {"version": 1, "host": host, "runs": options.runs, "measurements": found}


def _on_signal(number: int, _frame: FrameType | None) -> NoReturn:
    """End by the way that releases everything."""
    raise SystemExit(128 + number)


def main() -> None:
    """Measure, print, write."""
    signal.signal(signal.SIGTERM, _on_signal)
    options = arguments()
    if options.quick:
        options.runs = min(options.runs, 3)
    try:
        results = measure(options)
    except Failed as reason:
        raise SystemExit(f"bench: {reason}") from reason
    text = json.dumps(results, indent=1) + "\n"
    if options.json == "-":
        sys.stdout.write(text)
    else:
        path = Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
