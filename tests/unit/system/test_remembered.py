# SPDX-License-Identifier: Apache-2.0
"""Answers that are kept in files."""

from __future__ import annotations

from pathlib import Path

import msgspec

from innkeeper.system.remembered import program_identity, recall, remember


class Facts(msgspec.Struct, frozen=True):
    path: str
    version: tuple[int, int]


def test_an_answer_holds_for_its_identity_alone(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    facts = Facts("/bin/x", (1, 2))
    assert recall(file, "one", Facts) is None
    remember(file, "one", facts)
    assert recall(file, "one", Facts) == facts
    assert recall(file, "two", Facts) is None


def test_what_another_version_wrote_is_no_answer(tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    for text in ("", "{", "[]", '["one"]', '["one", 7]', '{"identity": "one", "facts": {}}'):
        file.write_text(text)
        assert recall(file, "one", Facts) is None


def test_a_program_that_was_replaced_is_another(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"1")
    first = program_identity(str(program))
    program.write_bytes(b"22")
    assert program_identity(str(program)) != first
