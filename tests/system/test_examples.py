# SPDX-License-Identifier: Apache-2.0
"""The examples do what they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

EXPECTED = {
    "hello.py": "amd64",
    "pipe_through_guest.py": "guest: one\nguest: two\nguest: three\n",
    "forward.py": "served by the guest\n",
    "two_guests.py": "arrived: True\n",
    "rings_host.py": "from the guest: True what is it?\nin the guest: 0:80 type 0: tea\n",
    "async_many.py": "sum of squares: 2870\ngave up; the guest's sleep ended with it\n",
}


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", EXPECTED)
def test_an_example(name: str) -> None:
    assert EXPECTED[name] in run(str(EXAMPLES / name))


@pytest.mark.slow
def test_the_example_for_pytest_in_two_workers() -> None:
    plugin = () if _installed() else ("-p", "innkeeper.testing.plugin")
    out = run("-m", "pytest", "-n", "2", *plugin, str(EXAMPLES / "test_with_guest.py"))
    assert "3 passed" in out


def test_every_example_is_tested() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {*EXPECTED, "test_with_guest.py"}


def _installed() -> bool:
    from importlib.metadata import entry_points

    return any(point.name == "innkeeper" for point in entry_points(group="pytest11"))
