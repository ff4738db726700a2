# SPDX-License-Identifier: Apache-2.0
"""Facts about this host from /proc, /dev and statvfs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path


def memory_available_bytes() -> int | None:
    """MemAvailable of /proc/meminfo (proc(5)), or None where it cannot be read."""
    with contextlib.suppress(OSError):
        match = re.search(
            r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE
        )
        if match:
            return int(match[1]) * 1024
    return None


def disk_free_bytes(folder: Path) -> int:
    """Bytes that an ordinary user can still write below `folder`."""
    return shutil.disk_usage(folder).free


def cpu_flags() -> frozenset[str]:
    """The first CPU's flags of /proc/cpuinfo; "vmx" or "svm" says hardware virtualisation."""
    with contextlib.suppress(OSError):
        match = re.search(r"^flags\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if match:
            return frozenset(match[1].split())
    return frozenset()


def boot_identity() -> str:
    """A text that changes with the host's kernel, CPU model and boot."""
    parts = [os.uname().release, os.uname().machine]
    with contextlib.suppress(OSError):
        match = re.search(
            r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
        parts.append(match[1] if match else "")
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    return " ".join(parts)


def host_identity() -> str:
    """A text that stays this host's: its machine-id(5), or its name where it has none."""
    with contextlib.suppress(OSError):
        text = Path("/etc/machine-id").read_text().strip()
        if text:
            return text
    return os.uname().nodename


def device_access(path: str) -> str | None:
    """None when the device opens for reading and writing, else the reason."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        return os.strerror(exc.errno or 0)
    os.close(fd)
    return None


def memory_pss_bytes(pid: int) -> int | None:
    """Proportional set size of a process (smaps_rollup, proc(5)), or None."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
        if match:
            return int(match[1]) * 1024
    return None
