# SPDX-License-Identifier: Apache-2.0
"""Every test that docs/acceptance.md names exists, and every row is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "acceptance.md").read_text()
ROWS = {3, *range(5, 18), *range(19, 24), *range(28, 44), *range(44, 52)}


def functions_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_named_test_exists() -> None:
    named = set(re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE))
    assert len(named) > 50
    missing = []
    for name, test in sorted(named):
        file = ROOT / name if "/" in name else ROOT / "tests/system" / name
        if not file.is_file() or test not in functions_in(file):
            missing.append(f"{name}::{test}")
    assert missing == []


def test_every_row_has_a_test_or_a_reason() -> None:
    rows = re.findall(r"^\| (\d+) \|([^|]+)\|([^|]+)\|$", PAGE, re.MULTILINE)
    numbers = [int(number) for number, _, _ in rows]
    assert numbers == sorted(set(numbers))
    assert set(numbers) >= ROWS
    assert all(len(shown.strip()) > 20 for _, _, shown in rows)
