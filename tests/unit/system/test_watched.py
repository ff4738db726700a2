# SPDX-License-Identifier: Apache-2.0
"""Programs that take long: their lines, their failure, and that nothing outlives us."""

from __future__ import annotations

import pytest

from innkeeper.errors import MissingProgram
from innkeeper.system.watched import Failed, run_watched


def test_lines_come_as_they_are_written() -> None:
    seen: list[str] = []
    argv = ["sh", "-c", "echo one; printf 'two\\rthree\\n' >&2; printf 'a\\033b'"]
    assert run_watched(argv, stage="x", on_line=seen.append) == ("one", "two", "three", "a b")
    assert seen == ["one", "two", "three", "a b"]


def test_a_failure_has_the_last_lines() -> None:
    with pytest.raises(Failed) as failure:
        run_watched(["sh", "-c", "seq 300; exit 7"], stage="x")
    assert failure.value.returncode == 7
    assert failure.value.lines[-1] == "300"
    assert len(failure.value.lines) == 200


def test_a_missing_program_is_told_with_its_package() -> None:
    with pytest.raises(MissingProgram) as failure:
        run_watched(["no-such-program"], stage="x", packages="some-package")
    assert "some-package" in failure.value.fix


def test_what_an_interrupted_program_had_started_is_gone_too() -> None:
    # The leak guard sees what stays.
    def stop(_line: str) -> None:
        raise KeyboardInterrupt

    argv = ["unshare", "--pid", "--fork", "--kill-child=KILL", "--"]
    with pytest.raises((KeyboardInterrupt, Failed)):
        run_watched([*argv, "sh", "-c", "sleep 100 & echo started; wait"], stage="x", on_line=stop)
