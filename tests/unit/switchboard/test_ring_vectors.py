# SPDX-License-Identifier: Apache-2.0
"""The vectors of rings are data for any implementation: Python reads them as Rust
does (whose parser takes newer TOML), and the reference explains each of their keys."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "tests" / "vectors" / "argo").glob("*.toml"))


def keys(value: object) -> Iterator[str]:
    """Every key of a document, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


def test_there_are_vectors() -> None:
    assert {path.stem for path in FILES} >= {"register", "send", "notify", "lifecycle", "policy"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_key_is_explained(path: Path) -> None:
    reference = (ROOT / "docs" / "reference" / "rings.md").read_text()
    code = " ".join(re.findall("`([^`]+)`", reference))
    document = tomllib.loads(path.read_text())
    # The head of the file's only list, which the text calls "a vector".
    unknown = {key for key in keys(document) if not re.search(rf"\b{key}\b", code)} - {"vector"}
    assert unknown == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_vector_has_a_name_rows_and_steps(path: Path) -> None:
    for vector in tomllib.loads(path.read_text())["vector"]:
        assert {"name", "rows", "steps"} <= vector.keys()
        assert all("op" in step for step in vector["steps"])
