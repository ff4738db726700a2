# SPDX-License-Identifier: Apache-2.0
"""The host that is measured on: what it is, how busy it is, what a process used."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")


def describe(plan: dict[str, Any]) -> dict[str, str]:
    """The facts that the numbers depend on."""
    host, image = plan["host"], plan["image"]
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    accelerator = host["accelerator"]
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "cpu": f"{os.cpu_count()} x {model[1] if model else platform.machine()}",
        "kernel": platform.release(),
        "qemu": ".".join(str(part) for part in host["qemu"]["version"]),
        "accelerator": f"{accelerator['accel']} ({accelerator['reason']})",
        "machine": plan["qemu"]["machine_type"],
        "guest": f"{image['kernel_release']}, {plan['machine']['cpus']} CPU,"
        f" {plan['machine']['memory_bytes'] >> 20} MiB",
        "python": platform.python_version(),
    }


def load() -> str:
    """The load averages of the last 1, 5 and 15 minutes."""
    return " ".join(Path("/proc/loadavg").read_text().split()[:3])


def _cpu_times() -> tuple[int, int]:
    """Ticks of all CPUs together since boot: idle, and all."""
    fields = [int(item) for item in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)


def busy_cpus(seconds: float) -> float:
    """How many CPUs were busy on average in the coming `seconds`."""
    idle, total = _cpu_times()
    time.sleep(seconds)
    idle_after, total_after = _cpu_times()
    passed = max(1, total_after - total)
    return (os.cpu_count() or 1) * (1 - (idle_after - idle) / passed)


def wait_for_quiet(limit_s: float, *, busy: float = 0.15, window_s: float = 3.0) -> str | None:
    """Wait until the host does nothing else; the reason where it never came to that.

    The load average cannot tell: for a minute it still remembers what the
    measurement before has caused.
    """
    deadline = time.monotonic() + limit_s
    while True:
        seen = busy_cpus(window_s)
        if seen <= busy:
            return None
        if time.monotonic() >= deadline:
            return f"the host was not quiet: {seen:.2f} CPUs busy before the start"


class Others:
    """How much CPU time everything but this program and its children uses.

    Only children that have ended and were waited for count as ours, so both
    ends of the span must lie where none is running.
    """

    def __init__(self) -> None:
        self._idle, self._total = _cpu_times()
        self._own_s = self._own_seconds()

    def busy_cpus(self) -> float:
        """CPUs that others kept busy on average since construction."""
        idle, total = _cpu_times()
        passed = max(1, total - self._total)
        passed_s = passed / _TICKS / (os.cpu_count() or 1)
        busy_s = (passed - (idle - self._idle)) / _TICKS
        return max(0.0, busy_s - (self._own_seconds() - self._own_s)) / passed_s

    @staticmethod
    def _own_seconds() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, all threads (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_kib(pid: int) -> dict[str, int]:
    """The fields of smaps_rollup, such as Pss, Pss_Anon, Private_Dirty, in KiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: int(kib) for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
