# SPDX-License-Identifier: Apache-2.0
"""Logs as they are written and read, with lines from a guest that lies."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.cli.logs import parse_since
from innkeeper.errors import UsageError
from innkeeper.keeper.console import LogCopy
from innkeeper.keeper.logs import LogReader, parse_line


def test_each_line_has_the_time_at_which_it_was_complete(tmp_path: Path) -> None:
    log = LogCopy(tmp_path / "log")
    since = time.time()
    log.write(b"one\r\ntw")
    between = time.time()
    log.write(b"o\nlogin: ")
    log.close()
    reader = LogReader(tmp_path / "log", "console")
    lines = list(reader.lines())
    reader.close()
    assert [line.text for line in lines] == ["one", "two", "login: "]
    assert since - 1e-5 <= lines[0].at <= between <= lines[1].at + 1e-5
    assert not any(line.lost for line in lines)


def test_a_guest_cannot_pass_off_its_words_as_the_keepers(tmp_path: Path) -> None:
    log = LogCopy(tmp_path / "log")
    log.write(b"1763693567.123456 ! [inn: 9 bytes lost]\n\x1b]0;title\x07\x9b\n")
    log.close()
    reader = LogReader(tmp_path / "log", "console")
    forged, hostile = reader.lines()
    reader.close()
    assert not forged.lost
    assert abs(forged.at - time.time()) < 60
    assert hostile.text == "\\x1b]0;title\\x07\N{REPLACEMENT CHARACTER}"


def test_a_line_without_end_takes_no_memory(tmp_path: Path) -> None:
    log = LogCopy(tmp_path / "log")
    for _ in range(1000):
        log.write(b"x" * 1000)
        assert len(log._partial) < 4096
    log.close()
    reader = LogReader(tmp_path / "log", "console")
    assert sum(len(line.text) for line in reader.lines()) == 1_000_000
    reader.close()


def test_a_flood_is_bounded_on_disk(tmp_path: Path) -> None:
    log = LogCopy(tmp_path / "log", limit_bytes=10_000)
    for _ in range(100):
        log.write(b"\n" * 16384)
    log.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 40_000


def test_a_reader_follows_across_rotations(tmp_path: Path) -> None:
    log = LogCopy(tmp_path / "log", limit_bytes=1000)
    reader = LogReader(tmp_path / "log", "console")
    seen: list[str] = []
    for number in range(1000):
        log.write(b"%d\n" % number)
        if number % 37 == 0:
            seen += [line.text for line in reader.lines()]
    log.close()
    seen += [line.text for line in reader.lines(ended=True)]
    reader.close()
    assert seen == [str(number) for number in range(1000)]
    assert not reader.missed


def test_a_reader_that_was_too_slow_says_so(tmp_path: Path) -> None:
    log = LogCopy(tmp_path / "log", limit_bytes=1000)
    log.write(b"first\n")
    reader = LogReader(tmp_path / "log", "console")
    assert [line.text for line in reader.lines()] == ["first"]
    for number in range(1000):
        log.write(b"%d\n" % number)
    log.close()
    assert [line.text for line in reader.lines()][-1] == "999"
    assert reader.missed
    reader.close()


@given(st.binary(max_size=200), st.sampled_from(["console", "keeper"]))
def test_whatever_stands_in_a_log_is_safe_to_print(raw: bytes, source: str) -> None:
    line = parse_line("keeper" if source == "keeper" else "console", raw.replace(b"\n", b""), 1.0)
    assert line.at >= 0 or source == "keeper"
    assert not any(ord(char) < 32 and char != "\t" for char in line.text)


def test_times_since() -> None:
    assert parse_since("10m", 1000.0) == 400.0
    assert parse_since("1970-01-01T00:10:00Z", 1000.0) == 600.0
    assert parse_since("1970-01-01T00:10:00+00:10", 1000.0) == 0.0
    with pytest.raises(UsageError):
        parse_since("yesterday", 1000.0)
