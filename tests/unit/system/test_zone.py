# SPDX-License-Identifier: Apache-2.0
"""Which time zone is the host's."""

from __future__ import annotations

from datetime import UTC as PYTHONS_UTC
from datetime import datetime
from io import BytesIO
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from innkeeper.system import zone
from innkeeper.system.zone import UTC, Zone, host_zone, is_zone_name, named_zone


@pytest.fixture
def zones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of zones with Test/East, and no zone of the host's."""
    folder = tmp_path / "zoneinfo"
    (folder / "Test").mkdir(parents=True)
    (folder / "Test/East").write_bytes(b"TZif2 east")
    (folder / "Test/none").write_bytes(b"no zone")
    monkeypatch.setattr(zone, "_ZONES", folder)
    monkeypatch.setenv("INN_LOCALTIME", str(tmp_path / "localtime"))
    monkeypatch.delenv("TZ", raising=False)
    return folder


def test_the_plain_utc_is_a_zone() -> None:
    made = ZoneInfo.from_file(BytesIO(UTC.tzif))
    noon = datetime(2030, 7, 1, 12, tzinfo=PYTHONS_UTC)
    assert noon.astimezone(made).strftime("%H %Z %z") == "12 UTC +0000"


def test_names(zones: Path) -> None:
    assert named_zone("Test/East") == Zone("Test/East", b"TZif2 east")
    for name in ("Test/none", "Test", "Test/West", "", "/etc/passwd", "../zoneinfo/Test/East"):
        assert named_zone(name) is None
    assert is_zone_name("Etc/GMT+1")
    assert not is_zone_name("a" * 65)
    assert (zones / "Test/none").is_file()


def test_the_hosts_zone_is_tz_then_its_link_then_utc(
    zones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host_zone() == UTC
    localtime = tmp_path / "localtime"
    localtime.symlink_to(zones / "Test/East")
    assert host_zone() == Zone("Test/East", b"TZif2 east")
    localtime.unlink()
    localtime.write_bytes(b"TZif2 copied")
    assert host_zone() == Zone("", b"TZif2 copied")
    monkeypatch.setenv("TZ", ":Test/East")
    assert host_zone().name == "Test/East"
    # A rule in place of a name (POSIX) is not looked up.
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    assert host_zone() == Zone("", b"TZif2 copied")
    localtime.write_bytes(b"TZif" * (16 << 10))
    assert host_zone() == UTC
