# SPDX-License-Identifier: Apache-2.0
"""`vsock`: throughput, round trips and CPU time of our device and of vhost-device-vsock."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

from tests.bench.samples import Failed, Result, Series, Skipped
from tests.bench.surroundings import cpu_seconds
from tests.bench.vsock_peers import OURS, THEIRS, Peer, our_peer, their_peer, their_version
from tests.bench.workspace import Workspace

from innkeeper.agent.connect import connect_port

_ECHO, _SINK, _SOURCE = 1000, 1001, 1002
_CHUNK = 1 << 20
# A device that stalls must not stall the run; at 10 MiB/s 256 MiB take 26 s.
_STALL_S = 20.0
_DIRECTIONS = ("guest to host", "host to guest")
# What is counted for each direction, beside the rate.
_CPU_PARTS = ("QEMU", "device", "QEMU + device")


class Meter:
    """The series of one device."""

    def __init__(self, peer: Peer, size_bytes: int, pings: int) -> None:
        self.peer = peer
        self.size_bytes = size_bytes
        self.pings = pings
        self.rtt = Series(f"{peer.name}: 1-byte round trip", "s")
        self.rates: dict[str, Series] = {}
        self.cpu: dict[tuple[str, str], Series] = {}
        for direction in _DIRECTIONS:
            name = f"{peer.name}: {direction}"
            self.rates[direction] = Series(name, "MiB/s", more_is_better=True)
            for part in _CPU_PARTS:
                series = Series(f"{name}, CPU of {part}", "s/GiB")
                self.cpu[direction, part] = series

    def round(self, *, keep: bool) -> None:
        """Every kind of transfer once."""
        for direction in _DIRECTIONS:
            try:
                rate, used = self._bulk(direction)
            except (OSError, Failed):
                self.rates[direction].failed += 1
                continue
            if keep:
                self.rates[direction].values.append(rate)
                for part, seconds in zip(_CPU_PARTS, (*used, sum(used)), strict=True):
                    self.cpu[direction, part].values.append(seconds)
        values = self._ping()
        if keep:
            self.rtt.values += values

    def series(self) -> list[Series]:
        """All that have samples."""
        every = [*self.rates.values(), self.rtt, *self.cpu.values()]
        return [series for series in every if series.values]

    def _connect(self, port: int) -> socket.socket:
        sock = connect_port(self.peer.vsock, port, timeout_s=_STALL_S)
        sock.settimeout(_STALL_S)
        return sock

    def _bulk(self, direction: str) -> tuple[float, tuple[float, float]]:
        """MiB per second, and CPU seconds per GiB of QEMU and of the device."""
        outgoing = direction == "host to guest"
        pids = (self.peer.qemu_pid, self.peer.device_pid)
        with self._connect(_SINK if outgoing else _SOURCE) as sock:
            before = [cpu_seconds(pid) for pid in pids]
            begun = time.perf_counter()
            sock.sendall(struct.pack("<Q", self.size_bytes))
            if outgoing:
                _send(sock, self.size_bytes)
            else:
                _receive(sock, self.size_bytes)
            took_s = time.perf_counter() - begun
            after = [cpu_seconds(pid) for pid in pids]
        gib = self.size_bytes / (1 << 30)
        used = [(late - early) / gib for early, late in zip(before, after, strict=True)]
        return self.size_bytes / (1 << 20) / took_s, (used[0], used[1])

    def _ping(self) -> list[float]:
        values = []
        with self._connect(_ECHO) as sock:
            for _ in range(self.pings):
                begun = time.perf_counter()
                sock.sendall(b"x")
                if not sock.recv(1):
                    raise Failed(f"{self.peer.name} ended the echo")
                values.append(time.perf_counter() - begun)
        return values


def _send(sock: socket.socket, size_bytes: int) -> None:
    """Send, and wait until the guest says that it has read everything."""
    data = memoryview(bytes(_CHUNK))
    left = size_bytes
    while left > 0:
        left -= sock.send(data[: min(left, _CHUNK)])
    if not sock.recv(1):
        raise Failed("the guest's sink ended early")


def _receive(sock: socket.socket, size_bytes: int) -> None:
    buffer = bytearray(_CHUNK)
    left = size_bytes
    while left > 0:
        got = sock.recv_into(buffer, min(left, _CHUNK))
        if got == 0:
            raise Failed(f"the guest's source ended {left} bytes early")
        left -= got


def measure(bench: Workspace) -> Result:
    """Both devices in turn, on guests that run at the same time."""
    size_bytes = (16 if bench.quick else 256) << 20
    pings, rounds = (50, 2) if bench.quick else (200, max(5, bench.runs // 2))
    result = Result()
    with contextlib.ExitStack() as stack:
        ours = Meter(stack.enter_context(our_peer(bench)), size_bytes, pings)
        meters = [ours]
        try:
            peer = stack.enter_context(their_peer(bench))
            meters.append(Meter(peer, size_bytes, pings))
            result.notes.append(f"compared with {their_version(bench)}")
        except (Skipped, Failed) as reason:
            result.notes.append(f"{THEIRS}: {reason}")
        for number in range(rounds + 1):
            for meter in meters:
                meter.round(keep=number > 0)
    result.notes.append(f"{size_bytes >> 20} MiB per transfer, {pings} round trips in a row")
    _conclude(result, meters)
    return result


def _conclude(result: Result, meters: list[Meter]) -> None:
    for meter in meters:
        result.series += meter.series()
        for rate in meter.rates.values():
            if rate.failed:
                result.notes.append(f"{rate.name}: {rate.failed} transfers stalled or broke")
    if len(meters) < 2 or meters[0].peer.name != OURS:
        return
    ours, theirs = meters
    for direction in _DIRECTIONS:
        result.compare(ours.rates[direction], theirs.rates[direction], at_least=3.0)
    result.compare(ours.rtt, theirs.rtt)
    for direction in _DIRECTIONS:
        for part in ("device", "QEMU + device"):
            result.compare(ours.cpu[direction, part], theirs.cpu[direction, part])
