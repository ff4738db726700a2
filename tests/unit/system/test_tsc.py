# SPDX-License-Identifier: Apache-2.0
"""The time-stamp counter's frequency: counted natively, once per boot of the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from innkeeper import _core
from innkeeper.switchboard.native import tsc_khz


def test_counting_twice_gives_nearly_the_same() -> None:
    assert _core.tsc_khz(20) == pytest.approx(_core.tsc_khz(40), rel=0.02)


def test_the_count_is_remembered_until_the_next_boot(tmp_path: Path) -> None:
    first = tsc_khz(tmp_path)
    assert first > 100_000
    assert tsc_khz(tmp_path) == first
    (tmp_path / "tsc.json").write_text('["another boot", 1]')
    assert tsc_khz(tmp_path) > 100_000
    (tmp_path / "tsc.json").write_text("{")
    assert tsc_khz(tmp_path) > 100_000
