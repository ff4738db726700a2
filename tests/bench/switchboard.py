# SPDX-License-Identifier: Apache-2.0
"""`switchboard`: streams and messages between guests, and between guests and their host.

`inn-guest throughput` is on both sides of every transfer, so that what differs
is what carries it: our devices, vhost-device-vsock's siblings, TCP over a bridge.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.samples import Failed, Result, Series, Skipped
from tests.bench.surroundings import cpu_seconds
from tests.bench.switchboard_pairs import (
    PORT,
    Pair,
    exec_in,
    our_pair,
    serve_in,
    their_pair,
)
from tests.bench.switchboard_rings import measure_rings
from tests.bench.vsock_peers import OURS, THEIRS, their_version
from tests.bench.workspace import Workspace, run_quietly, running, wait_until

from innkeeper.errors import InnError
from innkeeper.images.tiny import agent_path

BRIDGED = "TCP over a bridge"

_BETWEEN = "guest to guest"
_TO_HOST = "guest to host"
_FROM_HOST = "host to guest"
# A transfer that moves nothing for this long has stalled.
_STALL_S = 5
# Nor may one drip for ever; 30 s are 4 MiB/s.
_LIMIT_S = 30.0
# A device that never finishes is not asked again and again.
_MOST_FAILURES = 1
_BUFFER = "256K"


class Carrier:
    """The series of one way between the guests of a pair, or to their host."""

    def __init__(self, pair: Pair, *, tcp: bool = False) -> None:
        self.pair = pair
        self.name = BRIDGED if tcp else pair.name
        far = f"tcp:{pair.right_ip}:{PORT}" if tcp else f"vsock:{pair.right_cid}:{PORT}"
        self.far = far
        self.directions = (_BETWEEN,) if tcp else (_BETWEEN, _TO_HOST, _FROM_HOST)
        self.rates: dict[str, Series] = {}
        self.cpu: dict[tuple[str, str], Series] = {}
        self.trips: dict[str, Series] = {}
        for direction in self.directions:
            name = f"{self.name}: {direction}"
            self.rates[direction] = Series(name, "MiB/s", more_is_better=True)
            for part in ("QEMU", "device", "all"):
                self.cpu[direction, part] = Series(f"{name}, CPU of {part}", "s/GiB")
        for share in ("p50", "p99"):
            name = f"{self.name}: {_BETWEEN}, 1-byte round trip, {share}"
            self.trips[share] = Series(name, "s")

    def round(self, size_mib: int, pings: int, *, keep: bool) -> None:
        """Every kind of transfer once."""
        for direction in self.directions:
            rate = self.rates[direction]
            if rate.failed >= _MOST_FAILURES:
                continue
            try:
                found, used = self._transfer(direction, size_mib)
            except (OSError, InnError, Failed) as error:
                rate.failed += 1
                rate.reason = str(error)
                continue
            if keep:
                rate.values.append(float(found["mib_per_s"]))
                for part, seconds in used.items():
                    self.cpu[direction, part].values.append(seconds * 1024 / size_mib)
        self._round_trips(pings, keep=keep)

    def _round_trips(self, pings: int, *, keep: bool) -> None:
        try:
            found = self._measured("ping", "-c", str(pings), "--stall", str(_STALL_S), self.far)
        except (OSError, InnError, Failed) as error:
            self.trips["p50"].failed += 1
            self.trips["p50"].reason = str(error)
            return
        if keep:
            for share, series in self.trips.items():
                series.values.append(found["round_trip_us"][share] / 1e6)

    def series(self) -> list[Series]:
        """All that have samples."""
        every = [*self.rates.values(), *self.trips.values(), *self.cpu.values()]
        return [series for series in every if series.values]

    def _transfer(self, direction: str, size_mib: int) -> tuple[dict[str, Any], dict[str, float]]:
        """What the tool says, and CPU seconds of QEMU and of the device."""
        size = ("-s", f"{size_mib}M", "-b", _BUFFER, "--stall", str(_STALL_S))
        before = self._cpu()
        if direction == _FROM_HOST:
            found = _on_host("send", *size, f"hybrid:{self.pair.right}:{PORT}")
        else:
            to = self.far if direction == _BETWEEN else f"vsock:host:{PORT}"
            found = self._measured("send", *size, to)
        after = self._cpu()
        used = {part: after[part] - before[part] for part in before}
        return found, used

    def _measured(self, *command: str) -> dict[str, Any]:
        argv = ("inn-guest", "throughput", *command, "--format=json")
        found: dict[str, Any] = json.loads(exec_in(self.pair.left, *argv, limit_s=_LIMIT_S))
        return found

    def _cpu(self) -> dict[str, float]:
        qemu = sum(cpu_seconds(pid) for pid in self.pair.qemu_pids)
        device = sum(cpu_seconds(pid) for pid in self.pair.device_pids)
        return {"QEMU": qemu, "device": device, "all": qemu + device}


def _on_host(*command: str) -> dict[str, Any]:
    argv = [str(agent_path()), "inn-guest", "throughput", *command, "--format=json"]
    found: dict[str, Any] = json.loads(run_quietly(argv))
    return found


@contextlib.contextmanager
def _host_serves(bench: Workspace, vsock: Path) -> Iterator[None]:
    """The host's end of transfers from a guest."""
    path = Path(f"{vsock}_{PORT}")
    log = bench.folder / f"{vsock.name}-host.log"
    argv = [str(agent_path()), "inn-guest", "throughput", "serve", f"unix:{path}"]
    with running(argv, log=log, own_session=True) as process:
        wait_until(lambda: b"listening" in log.read_bytes(), "the host's end", process, log)
        yield


def measure(bench: Workspace) -> Result:
    """All carriers in turn, on guests that run at the same time."""
    size_mib, pings, rounds = (16, 50, 2) if bench.quick else (128, 500, max(5, bench.runs // 2))
    result = Result()
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(our_pair(bench))
        carriers = [Carrier(ours)]
        try:
            carriers.append(Carrier(stack.enter_context(their_pair(bench))))
            result.notes.append(f"compared with {their_version(bench)}")
        except (Skipped, Failed) as reason:
            result.notes.append(f"{THEIRS}: {reason}")
        for carrier in carriers:
            serve_in(carrier.pair.right, f"vsock::{PORT}")
            stack.enter_context(_host_serves(bench, carrier.pair.left))
        if ours.right_ip is None:
            result.notes.append(
                f"{BRIDGED}: only root can make one, and the user network joins no guests"
            )
        else:
            serve_in(ours.right, f"tcp::{PORT}")
            carriers.append(Carrier(ours, tcp=True))
        for number in range(rounds + 1):
            for carrier in carriers:
                carrier.round(size_mib, pings, keep=number > 0)
        _conclude(result, {carrier.name: carrier for carrier in carriers})
        try:
            measure_rings(bench, ours, rounds, result)
        except (OSError, InnError, Failed) as reason:
            result.notes.append(f"rings: {reason}")
    result.notes.append(f"{size_mib} MiB per transfer, {_BUFFER} buffers, {pings} round trips")
    return result


def _conclude(result: Result, carriers: dict[str, Carrier]) -> None:
    for carrier in carriers.values():
        result.series += carrier.series()
        for series in (*carrier.rates.values(), carrier.trips["p50"]):
            if series.failed:
                result.notes.append(
                    f"{series.name}: did not finish, {series.failed} times: {series.reason}"
                )
    ours = carriers[OURS]
    if theirs := carriers.get(THEIRS):
        for direction in ours.directions:
            result.compare(ours.rates[direction], theirs.rates[direction], at_least=3.0)
            result.compare(ours.cpu[direction, "all"], theirs.cpu[direction, "all"])
        result.compare(ours.trips["p50"], theirs.trips["p50"])
    if bridged := carriers.get(BRIDGED):
        result.compare(ours.rates[_BETWEEN], bridged.rates[_BETWEEN], at_least=1.0)
        result.compare(ours.cpu[_BETWEEN, "all"], bridged.cpu[_BETWEEN, "all"])
        result.compare(ours.trips["p50"], bridged.trips["p50"])
