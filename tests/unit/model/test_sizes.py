# SPDX-License-Identifier: Apache-2.0
"""Sizes and durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.errors import UsageError
from innkeeper.model.sizes import (
    GIB,
    MIB,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512M", 512 * MIB),
        ("2G", 2 * GIB),
        ("1.5GiB", 3 * GIB // 2),
        ("2 gb", 2 * GIB),
        ("1048576", MIB),
        ("0", 0),
    ],
)
def test_sizes_as_people_write_them(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "M", "12Q", "-1M", "1e9", "1,5G", "0x10", "∞"])
def test_other_texts_are_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)


@given(st.integers(0, 1 << 50))
def test_a_formatted_size_reads_back_nearly_the_same(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=0.05, abs=1)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("1.5s", 1.5), ("250ms", 0.25), ("2m", 120), ("1h", 3600)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "soon", "1d", "s"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration"):
        parse_duration(text)


def test_durations_for_people() -> None:
    assert [format_duration(s) for s in (0.344, 12.04, 125.4)] == ["0.34 s", "12.0 s", "2 m 05 s"]
