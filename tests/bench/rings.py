# SPDX-License-Identifier: Apache-2.0
"""`rings`: messages a second, from a guest to its host and to another guest.

`inn-guest rings` sends batches and waits until all was read; the same program reads.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from tests.bench.machines import state_of_its_own
from tests.bench.samples import Failed, Ratio, Result, Series
from tests.bench.workspace import INN, Workspace, run_quietly, running, wait_until

from innkeeper.images.tiny import agent_path

_FILE = """\
name = "rings"
[machines.left]
memory = "128M"
[machines.right]
memory = "128M"
[[policy]]
from = "left"
to = "right"
port = 80
operations = ["register-single", "send", "query", "notify"]
"""
_HOST, _GUEST = "guest to host", "guest to guest"
# Bytes of a message, messages, and how many go before an answer is waited for.
_SIZES = ((16, 100_000, 256), (1024, 50_000, 256), (65536, 1000, 16))
_RING = "1M"
_AT_LEAST = 10_000


def measure(bench: Workspace) -> Result:
    """Rates by size, and CPU time per message of 1 KiB."""
    rates = {
        (way, size): Series(f"{way}, {_in_words(size)}", "messages/s", more_is_better=True)
        for way in (_HOST, _GUEST)
        for size, _, _ in _SIZES
    }
    with state_of_its_own(bench, "rings"), _up(bench) as cids:
        for number in range(bench.runs + 1):
            for (way, size), series in rates.items():
                try:
                    rate = _rate(bench, cids, way, size)
                except Failed as reason:
                    series.failed += 1
                    series.reason = str(reason)
                    continue
                if number > 0:
                    series.values.append(rate)
    result = Result()
    result.add({series.name: series for series in rates.values()})
    for way in (_HOST, _GUEST):
        series = rates[way, 1024]
        if series.values:
            result.ratios.append(
                Ratio(series.name, series.median, at_least=_AT_LEAST, unit="messages/s")
            )
    return result


def _in_words(size: int) -> str:
    return f"{size} B" if size < 1024 else f"{size >> 10} KiB"


def _rate(bench: Workspace, cids: dict[str, int], way: str, size: int) -> float:
    count, batch = next((count, batch) for one, count, batch in _SIZES if one == size)
    if bench.quick:
        count //= 10
    to = "host" if way == _HOST else "right"
    options = ["-s", str(size), "-n", str(count), "-b", str(batch), "--format=json"]
    with _reading(bench, cids, way, count):
        told = run_quietly(
            [str(INN), "exec", "left", "--", "inn-guest", "rings", "bench", *options, f"{to}:80"]
        )
    return float(json.loads(told)["per_second"])


@contextlib.contextmanager
def _reading(bench: Workspace, cids: dict[str, int], way: str, count: int) -> Iterator[None]:
    """Somebody reads so many messages of Left."""
    arguments = ["inn-guest", "rings", "receive", "--quiet", "-r", _RING, "-n", str(count),
                 "--from", str(cids["left"])]  # fmt: skip
    if way == _HOST:
        socket = Path(os.environ["INN_RUNTIME_DIR"]) / "left" / "rings.sock"
        argv = [str(agent_path()), *arguments, "--socket", str(socket), "80"]
    else:
        argv = [str(INN), "exec", "right", "--", *arguments, "80"]
    log = bench.folder / "rings.log"
    log.unlink(missing_ok=True)
    with running(argv, log=log) as reader:
        wait_until(lambda: b"takes messages" in log.read_bytes(), "the reader", reader, log)
        yield
        if reader.wait(60) != 0:
            raise Failed(f"the reader ended with {reader.returncode}")


@contextlib.contextmanager
def _up(bench: Workspace) -> Iterator[dict[str, int]]:
    """Both guests; their CIDs by name."""
    file = bench.folder / "rings.toml"
    file.write_text(_FILE)
    run_quietly([str(INN), "up", str(file)])
    try:
        (topology,) = json.loads(run_quietly([str(INN), "ps", "--format=json"]))["topologies"]
        yield {machine["name"]: machine["cid"] for machine in topology["machines"]}
    finally:
        run_quietly([str(INN), "down", "rings"])
