# SPDX-License-Identifier: Apache-2.0
"""A guest's clock and time zone follow the host's."""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guests import Inn

Eventually = Callable[[Callable[[], bool]], None]

PAUSE_S = 5


def tzif(hours: int, abbreviation: str) -> bytes:
    """A zone without summer time (RFC 8536)."""
    name = abbreviation.encode() + b"\0"
    header = struct.pack(">4sc15x6I", b"TZif", b"2", 0, 0, 0, 0, 1, len(name))
    block = header + struct.pack(">iBB", hours * 3600, 0, 0) + name
    return block + block + f"\n{abbreviation}{-hours}\n".encode()


@pytest.fixture
def localtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's /etc/localtime as keepers see it: a link to Test/East."""
    zones = tmp_path / "zoneinfo/Test"
    zones.mkdir(parents=True)
    (zones / "East").write_bytes(tzif(9, "EAST"))
    (zones / "West").write_bytes(tzif(-5, "WEST"))
    path = tmp_path / "localtime"
    path.symlink_to(zones / "East")
    monkeypatch.setenv("INN_LOCALTIME", str(path))
    monkeypatch.delenv("TZ", raising=False)
    return path


@pytest.fixture
def machines(inn: Inn, localtime: Path) -> Iterator[tuple[str, str]]:
    """Two guests that run."""
    assert localtime.is_symlink()
    for name in ("one", "two"):
        assert inn("create", name).code == 0
    assert inn("start", "one", "two").code == 0
    yield "one", "two"
    assert inn("rm", "-f", "one", "two").code == 0


def clock_error_s(inn: Inn, name: str) -> float:
    """How far the guest's clock is from ours."""
    before = time.time()
    told = int(inn("exec", name, "date", "+%s").stdout)
    return max(0.0, before - 1 - told, told - time.time())


def uptime_s(inn: Inn, name: str) -> float:
    return float(inn("exec", name, "cat", "/proc/uptime").stdout.split()[0])


def test_zones_and_clocks_of_guests(
    inn: Inn, machines: tuple[str, str], localtime: Path, eventually: Eventually
) -> None:
    one, two = machines
    assert inn("exec", one, "date", "+%Z %z").stdout == b"EAST +0900\n"
    new = localtime.with_name("new")
    new.symlink_to("zoneinfo/Test/West")
    new.rename(localtime)
    eventually(lambda: inn("exec", one, "date", "+%Z %z").stdout == b"WEST -0500\n")

    # A clock that went wrong by itself; one guest that is not there does not keep
    # the others from being mended.
    for name in machines:
        assert inn("exec", name, "date", "-s", "2001-02-03 04:05:06").code == 0
        assert clock_error_s(inn, name) > 1e8
    done = inn("clock", "gone", one, two)
    assert done.code != 0
    assert "'gone'" in done.error
    assert done.stdout == b"one\ntwo\n"
    assert all(clock_error_s(inn, name) < 2 for name in machines)

    # A pause: the guests' own time stands still, the clock is right afterwards, and
    # one guest that died is told while the other goes on.
    before = uptime_s(inn, one)
    assert inn("pause", one, two).code == 0
    refused = inn("clock", "--all")
    assert "is paused" in refused.error
    time.sleep(PAUSE_S)  # what the guests must not have noticed
    record = json.loads(inn("inspect", two, "--format", "json").stdout)["record"]
    os.kill(record["qemu_pid"], signal.SIGKILL)
    eventually(lambda: b"failed" in inn("inspect", two).stdout)
    since = time.monotonic()
    done = inn("resume", two, one)
    assert done.code == 125
    assert "'two' is failed" in done.error
    assert done.stdout == b"one\n"
    assert clock_error_s(inn, one) < 2
    assert uptime_s(inn, one) - before < time.monotonic() - since + 2


def test_a_zone_of_ones_own(inn: Inn, localtime: Path) -> None:
    shown = inn("run", "--timezone", "utc", "--", "date", "+%Z %z")
    assert shown.stdout == b"UTC +0000\n"
    assert inn("run", "--timezone", "guest", "--", "test", "-e", "/etc/localtime").code == 1
    unknown = inn("run", "--timezone", "Mars/Olympus", "--", "true")
    assert unknown.code == 2
    assert "no time zone 'Mars/Olympus'" in unknown.error
    assert localtime.is_symlink()
