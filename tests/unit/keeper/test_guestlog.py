# SPDX-License-Identifier: Apache-2.0
"""The file of a guest's log: escaped, bounded in time and size, losses told."""

from __future__ import annotations

import json
from pathlib import Path

from innkeeper.agent.pb import guestlog_pb2
from innkeeper.keeper.guestlog import GuestLog, show


def batch(*contents: bytes, lost: int = 0) -> guestlog_pb2.Batch:
    records = [
        guestlog_pb2.Record(
            severity=77,
            facility=1 << 31,
            timestamp_ns=(1 << 64) - 1,
            source=guestlog_pb2.SOURCE_USER,
            content=content,
        )
        for content in contents
    ]
    return guestlog_pb2.Batch(records=records, lost=lost)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_hostile_bytes_are_shown() -> None:
    assert show(b"a\x1b[31m\n\xff\xc2\x9b\xe2\x80\xae") == r"a\x1b[31m\n\xff\x9b\u202e"
    assert len(show(b"x" * 5000)) == 1024


def test_records_and_losses(tmp_path: Path) -> None:
    log = GuestLog(tmp_path / "guest.log")
    log.add(batch(b"one", lost=3))
    log.add(batch(b"two"))
    log.close()
    log.close()
    lost, one, two = lines(tmp_path / "guest.log")
    assert (lost["event"], lost["count"]) == ("lost", 3)
    assert (one["text"], two["text"]) == ("one", "two")
    assert (one["severity"], one["facility"], one["source"]) == (7, 23, "user")


def test_a_flood_is_cut_and_counted(tmp_path: Path) -> None:
    log = GuestLog(tmp_path / "guest.log")
    for _ in range(100):
        log.add(batch(*[b"x"] * 100))
    log.close()
    told = lines(tmp_path / "guest.log")
    kept = sum(line["text"] == "x" for line in told)
    assert kept < 10_000
    assert kept + sum(int(str(line.get("count", 0))) for line in told) == 10_000


def test_old_files_are_few(tmp_path: Path) -> None:
    log = GuestLog(tmp_path / "guest.log", limit_bytes=2000)
    for _ in range(50):
        log.add(batch(b"\x1b" * 1024))
    log.close()
    assert {file.name for file in tmp_path.iterdir()} == {
        *("guest.log", "guest.log.1", "guest.log.2", "guest.log.3"),
    }
