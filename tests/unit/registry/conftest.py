# SPDX-License-Identifier: Apache-2.0
"""Folders of a host with nothing in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from innkeeper.registry.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Runtime and state folders of the test's own."""
    for name in ("run", "state"):
        (tmp_path / name).mkdir(mode=0o700)
    return Layout(
        runtime_dir=str(tmp_path / "run"),
        cache_dir=str(tmp_path),
        state_dir=str(tmp_path / "state"),
    )
