# SPDX-License-Identifier: Apache-2.0
"""What a process takes of this host: three files of /proc (proc(5))."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass

from innkeeper.system.host import memory_pss_bytes

# Of what follows the program's name in /proc/PID/stat; proc(5) counts from 1 and the name is 2.
_STATE, _PARENT, _USER_TICKS, _SYSTEM_TICKS, _STARTED_TICKS = 0, 1, 11, 12, 19
# A process that has ended, and waits for its parent to notice.
_ENDED = (b"Z", b"X")


@dataclass(frozen=True)
class ProcessUsage:
    """A process at one moment.

    :ivar started_s: when it began, in seconds since the host's boot; with the pid it names
        one process, since pids are used again.
    :ivar cpu_s: CPU time of all its threads, those of the kernel's work for it included.
    :ivar memory_bytes: its proportional set size: a page that n processes share counts 1/n.
    :ivar read_bytes: fetched from disks on its behalf so far.
    :ivar written_bytes: the same, sent to disks.
    """

    pid: int
    parent_pid: int
    started_s: float
    cpu_s: float
    memory_bytes: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None


def process_usage(pid: int) -> ProcessUsage | None:
    """What a process takes now; None where there is none, or it has ended.

    What this user may not read of it is None in the result.
    """
    found = parse_stat(_read(pid, "stat"), tick_hz=os.sysconf("SC_CLK_TCK"))
    if found is None:
        return None
    moved = parse_io(_read(pid, "io"))
    return ProcessUsage(
        pid=found.pid,
        parent_pid=found.parent_pid,
        started_s=found.started_s,
        cpu_s=found.cpu_s,
        memory_bytes=memory_pss_bytes(pid),
        read_bytes=moved.get("read_bytes"),
        written_bytes=moved.get("write_bytes"),
    )


def since_boot_s() -> float:
    """Seconds since the host's boot, by the clock of `ProcessUsage.started_s`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def parse_stat(text: bytes, *, tick_hz: int) -> ProcessUsage | None:
    """What /proc/PID/stat says; None for a process that has ended, or for no such text."""
    # The name is the process's own choice, and may hold blanks and parentheses.
    head, _, rest = text.rpartition(b") ")
    fields = rest.split()
    if len(fields) <= _STARTED_TICKS or fields[_STATE] in _ENDED:
        return None
    return ProcessUsage(
        pid=int(head.partition(b" ")[0]),
        parent_pid=int(fields[_PARENT]),
        started_s=int(fields[_STARTED_TICKS]) / tick_hz,
        cpu_s=(int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])) / tick_hz,
    )


def parse_io(text: bytes) -> dict[str, int]:
    """The counters of /proc/PID/io by name."""
    pairs = (line.partition(b": ") for line in text.splitlines())
    return {key.decode(): int(value) for key, _, value in pairs if value.isdigit()}


def _read(pid: int, name: str) -> bytes:
    # ProcessLookupError, an OSError, where it ends between open and read.
    with contextlib.suppress(OSError):
        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 4096)
        finally:
            os.close(fd)
    return b""
