# SPDX-License-Identifier: Apache-2.0
"""Where the disks of these tests lie."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    """The folder of stored disks, which is not there yet."""
    return tmp_path / "disks"
