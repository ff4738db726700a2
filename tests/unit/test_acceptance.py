# SPDX-License-Identifier: Apache-2.0
"""Every test that docs/acceptance.md names exists, and every row is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "acceptance.md").read_text()
ARGO_HEADING = "## Messages between guests\n"
MACHINES, _, ARGO = PAGE.partition(ARGO_HEADING)
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


def test_every_named_test_in_rust_exists() -> None:
    named = set(re.findall(r"`(crates/[\w/]+\.rs)::(\w+)`", PAGE))
    assert len(named) > 5
    missing = []
    for name, test in sorted(named):
        file = ROOT / name
        if not file.is_file() or f"#[test]\nfn {test}(" not in file.read_text().replace("    ", ""):
            missing.append(f"{name}::{test}")
    assert missing == []


@pytest.mark.parametrize(("page", "least"), [(MACHINES, ROWS), (ARGO, set(range(1, 22)))])
def test_every_row_has_a_test_or_a_reason(page: str, least: set[int]) -> None:
    rows = re.findall(r"^\| (\d+) \|([^|]+)\|([^|]+)\|$", page, re.MULTILINE)
    numbers = [int(number) for number, _, _ in rows]
    assert numbers == sorted(set(numbers))
    assert set(numbers) >= least
    assert all(len(shown.strip()) > 20 for _, _, shown in rows)
