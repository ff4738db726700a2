# SPDX-License-Identifier: Apache-2.0
"""Logs that stay bounded whatever is written to them, and tell of what is missing."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from innkeeper.system.rotate import RotatingFile, log_paths


def note(count: int) -> bytes:
    return b"lost %d\n" % count


def test_a_log_is_bounded_and_lines_are_never_torn(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = RotatingFile(path, note=note, limit_bytes=1000, keep=3)
    for number in range(2000):
        log.write(b"%05d a\n%05d b\n" % (number, number))
    log.write(b"".join(b"%05d c\n" % number for number in range(1000)))
    log.close()
    files = sorted(entry.name for entry in tmp_path.iterdir())
    assert files == ["log", "log.1", "log.2", "log.3"]
    assert all(entry.stat().st_size <= 1000 for entry in tmp_path.iterdir())
    lines = [line for file in log_paths(path)[::-1] for line in file.read_bytes().splitlines()]
    assert lines[-1] == b"00999 c"
    assert all(len(line) == 7 for line in lines)
    numbers = [int(line[:5]) for line in lines]
    assert numbers == list(range(numbers[0], 1000))


def test_a_log_is_continued_and_is_private(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        log = RotatingFile(tmp_path / "log", note=note)
        log.write(text)
        log.close()
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files of this process hold 100 bytes, which acts as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_could_not_be_written_is_counted_and_told(tmp_path: Path, full_disk: None) -> None:
    log = RotatingFile(tmp_path / "log", note=note)
    for _ in range(30):
        log.write(b"123456789\n")
    assert log.lost == 200
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    log.write(b"again\n")
    log.close()
    assert (tmp_path / "log").read_bytes() == b"123456789\n" * 10 + b"lost 200\nagain\n"
    assert log.lost == 0


def test_a_line_that_was_torn_does_not_swallow_what_follows(
    tmp_path: Path, full_disk: None
) -> None:
    log = RotatingFile(tmp_path / "log", note=note)
    log.write(b"x" * 149 + b"\n")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    log.close()
    assert (tmp_path / "log").read_bytes() == b"x" * 100 + b"\nlost 50\n"


def test_a_folder_that_went_away_raises_nothing(tmp_path: Path) -> None:
    log = RotatingFile(tmp_path / "gone" / "log", note=note)
    log.write(b"text\n")
    assert log.lost == 5
    log.close()
