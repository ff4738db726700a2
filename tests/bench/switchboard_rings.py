# SPDX-License-Identifier: Apache-2.0
"""Messages over rings: how many a second, from a guest to its host and to another guest."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from tests.bench.samples import Failed, Ratio, Result, Series
from tests.bench.switchboard_pairs import Pair, exec_in, keep_in
from tests.bench.workspace import Workspace, running, wait_until

from innkeeper.errors import InnError
from innkeeper.images.tiny import agent_path

_PORT = 77
_RING = "1M"
# Bytes of a message, and how many are sent for a sample.
_SIZES = {"16": 20_000, "1K": 20_000, "64K": 1_000}
_QUICK_SHARE = 10
_TARGET_PER_SECOND = 10_000.0
_TARGET_SIZE = "1K"
_HOST = "host"


def measure_rings(bench: Workspace, pair: Pair, rounds: int, result: Result) -> None:
    """All sizes to both destinations in turn; into `result`."""
    found: dict[tuple[str, str], Series] = {}
    for to in (_HOST, "guest"):
        for size in _SIZES:
            name = f"rings: guest to {to}, messages of {size} bytes"
            found[to, size] = Series(name, "1/s", more_is_better=True)
    with _receivers(bench, pair):
        for number in range(rounds + 1):
            for (to, size), series in found.items():
                try:
                    rate = _rate(pair, to, size, bench.quick)
                except (OSError, InnError, Failed) as error:
                    series.failed += 1
                    series.reason = str(error)
                    continue
                if number > 0:
                    series.values.append(rate)
    result.add({series.name: series for series in found.values()})
    target = found[_HOST, _TARGET_SIZE]
    if target.values:
        result.ratios.append(
            Ratio(target.name, target.median, at_least=_TARGET_PER_SECOND, unit="1/s")
        )


def _rate(pair: Pair, to: str, size: str, quick: bool) -> float:
    """Messages a second, until the last was read."""
    count = _SIZES[size] // (_QUICK_SHARE if quick else 1)
    domain = _HOST if to == _HOST else str(pair.right_cid)
    options = ("-n", str(count), "-s", size, "-r", _RING, "--format=json")
    said = exec_in(pair.left, "inn-guest", "rings", "bench", *options, f"{domain}:{_PORT}")
    return float(json.loads(said)["per_second"])


@contextlib.contextmanager
def _receivers(bench: Workspace, pair: Pair) -> Iterator[None]:
    """A program of the host and one of the right guest, which read and throw away."""
    receive = ("inn-guest", "rings", "receive", "--quiet", "-r", _RING, "-f", str(pair.left_cid))
    keep_in(pair.right, f"{' '.join(receive)} {_PORT}", until="takes messages")
    log = bench.folder / "rings-host.log"
    socket = pair.left.with_name("rings.sock")
    argv = [str(agent_path()), *receive, "--socket", str(socket), str(_PORT)]
    with running(argv, log=log, own_session=True) as process:
        wait_until(lambda: b"takes messages" in log.read_bytes(), "a ring", process, log)
        yield
