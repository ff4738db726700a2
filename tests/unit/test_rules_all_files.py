# SPDX-License-Identifier: Apache-2.0
"""Rules for the sources of every language: headers, sizes, leftovers, versions."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import innkeeper

ROOT = Path(__file__).parents[2]

MAX_RUST_LINES = 450
HEADER = "SPDX-License-Identifier: Apache-2.0"
# Spelled in two halves, or this file would break its own rule.
LEFTOVER = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
VAGUE_NAMES = frozenset(
    ["common", "helper", "helpers", "manager", "managers", "misc", "util", "utils"]
)


def _files(*suffixes: str) -> Iterator[Path]:
    for folder in ("python", "crates", "proto", "tests", "scripts", "guest"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes and "target" not in path.parts and "_pb2" not in path.name:
                yield path


def _check(violations: list[str]) -> None:
    if violations:
        pytest.fail("\n".join(violations), pytrace=False)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_source_has_its_licence_header() -> None:
    _check(
        [
            f"{_name(path)}: no {HEADER} in the first two lines"
            for path in _files(".py", ".rs", ".proto", ".sh")
            if HEADER not in "".join(path.read_text().splitlines()[:2])
        ]
    )


def test_nothing_is_left_for_later() -> None:
    violations = []
    for path in _files(".py", ".pyi", ".rs", ".proto", ".sh", ".toml"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if LEFTOVER.search(line):
                violations.append(f"{_name(path)}:{number}: {line.strip()}")
    _check(violations)


def test_no_rust_file_is_too_long() -> None:
    _check(
        [
            f"{_name(path)}: {lines} lines, at most {MAX_RUST_LINES}"
            for path in _files(".rs")
            if (lines := path.read_text().count("\n")) > MAX_RUST_LINES
        ]
    )


def test_rust_names_say_something() -> None:
    _check(
        [
            f"{_name(path)}: the name says nothing"
            for path in _files(".rs")
            if VAGUE_NAMES.intersection(re.split(r"[_/.-]", _name(path)))
        ]
    )


def test_unsafe_rust_says_why_it_is_sound() -> None:
    _check(
        [
            f"{_name(path)}: unsafe without SAFETY comment"
            for path in _files(".rs")
            if re.search(r"\bunsafe (\{|impl)", text := path.read_text()) and "SAFETY:" not in text
        ]
    )


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    assert {project["version"], cargo["version"]} == {innkeeper.__version__}


def test_lock_files_hold_hashes_and_no_addresses() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "--hash=sha256:" in text
        assert not re.search(r"://|--(find-links|index-url|extra-index-url)", text), path.name
