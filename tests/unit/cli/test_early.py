# SPDX-License-Identifier: Apache-2.0
"""`inn run` launches its keeper before its arguments are parsed: only where there will be a guest."""

from __future__ import annotations

import click
import pytest

from innkeeper.cli.early import FLAGS, VALUED, starts_guest
from innkeeper.cli.run import run


def test_the_options_are_those_of_run() -> None:
    flags: set[str] = set()
    valued: set[str] = set()
    for option in run.params:
        if isinstance(option, click.Option):
            names = flags if option.is_flag else valued
            names.update(option.opts, option.secondary_opts)
    assert flags == FLAGS, "name the new option in innkeeper/cli/early.py too"
    assert valued == VALUED, "name the new option in innkeeper/cli/early.py too"
    assert not [name for name in FLAGS if len(name) == 2], "letters are all taken to have a value"


@pytest.mark.parametrize(
    "words",
    [
        "",
        "true",
        "-- true --help",
        "-c2 -m 1G true",
        "--cpus 2",
        "--env=A=b --tty -- sh",
        "-e -h sh",
    ],
)
def test_a_guest(words: str) -> None:
    assert starts_guest(words.split())


@pytest.mark.parametrize(
    "words",
    ["--help", "-h", "--cpus 2 --help", "--cpu 2", "--memory", "-m", "--tty=yes true", "-x true"],
)
def test_no_guest(words: str) -> None:
    assert not starts_guest(words.split())
