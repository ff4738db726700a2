# SPDX-License-Identifier: Apache-2.0
"""What /proc says of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from innkeeper.system.usage import parse_io, parse_stat, process_usage, since_boot_s

# Fields as in proc(5): utime 250 and stime 50 ticks, started 100 s after the boot.
STAT = b"42 (a) R (b)) S 7 42 42 0 -1 4194560 1 2 3 4 250 50 9 9 20 0 12 0 10000 8192 99 18446744 1 1\n"


def test_a_name_with_blanks_and_parentheses_disturbs_nothing() -> None:
    usage = parse_stat(STAT, tick_hz=100)
    assert usage is not None
    assert (usage.pid, usage.parent_pid) == (42, 7)
    assert (usage.cpu_s, usage.started_s) == (3.0, 100.0)


def test_what_has_ended_or_is_no_such_text_is_none() -> None:
    assert parse_stat(STAT.replace(b") S ", b") Z "), tick_hz=100) is None
    for text in (b"", b"42 (x", b"42 (x) S 1 2\n"):
        assert parse_stat(text, tick_hz=100) is None


def test_counters_of_bytes() -> None:
    text = b"rchar: 5\nread_bytes: 4096\nwrite_bytes: 12288\ntorn"
    assert parse_io(text) == {"rchar": 5, "read_bytes": 4096, "write_bytes": 12288}
    assert parse_io(b"") == {}


def test_this_process_itself() -> None:
    before = process_usage(os.getpid())
    assert before is not None
    deadline = time.process_time() + 0.05
    while time.process_time() < deadline:
        pass
    after = process_usage(os.getpid())
    assert after is not None
    assert after.parent_pid == os.getppid()
    assert after.started_s == before.started_s <= since_boot_s()
    assert after.cpu_s - before.cpu_s >= 0.03
    assert after.memory_bytes is not None
    assert after.memory_bytes > 1 << 20
    assert after.read_bytes is not None


def test_a_child_that_ended_is_none_before_and_after_its_parent_notices() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_usage(child.pid) is None
    child.wait()
    assert process_usage(child.pid) is None
