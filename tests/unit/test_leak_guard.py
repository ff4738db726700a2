# SPDX-License-Identifier: Apache-2.0
"""The leak guard of tests/conftest.py, tried on tests that leak."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).parents[1] / "conftest.py"

LEAKING_TESTS = """
import os, pathlib, subprocess, sys

def test_clean():
    subprocess.run(["true"], check=True)

def test_process():
    globals()["kept"] = subprocess.Popen(["sleep", "1000"])

def test_orphan():
    subprocess.run(["sh", "-c", "sleep 1001 </dev/null >/dev/null 2>&1 &"], check=True)

def test_ended_orphan():
    subprocess.run(["sh", "-c", "sleep 0.1 </dev/null >/dev/null 2>&1 &"], check=True)

def test_descriptor():
    os.open("/dev/null", os.O_RDONLY)

def test_runtime_entry():
    (pathlib.Path(os.environ["INN_RUNTIME_DIR"]) / "leaked").mkdir()
"""


def test_each_kind_of_leak_fails_its_test(pytester: pytest.Pytester) -> None:
    conftest = CONFTEST.read_text()
    assert "_GRACE_S = 1.5\n" in conftest
    pytester.makeconftest(conftest.replace("_GRACE_S = 1.5\n", "_GRACE_S = 0.3\n"))
    pytester.makepyfile(LEAKING_TESTS)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=6, errors=4)
    text = result.stdout.str()
    for part in ("sleep 1000", "sleep 1001", ": /dev/null", "runtime entry: leaked"):
        assert part in text


def test_the_run_has_its_own_short_runtime_folder(runtime_dir: Path) -> None:
    assert os.environ["INN_RUNTIME_DIR"] == str(runtime_dir)
    assert len(str(runtime_dir)) < 40
    assert runtime_dir.stat().st_mode & 0o777 == 0o700
