# SPDX-License-Identifier: Apache-2.0
"""`inn events`: the states of all guests, and each change of them."""

from __future__ import annotations

import contextlib
import sys
from datetime import datetime

import click

from innkeeper.cli.output import FORMAT, print_json
from innkeeper.keeper.events import Changes
from innkeeper.registry.layout import host_layout
from innkeeper.system.interrupt import interruptible


@click.command()
@FORMAT
@click.argument("names", nargs=-1, metavar="[NAME]...")
def events(names: tuple[str, ...], output_format: str) -> None:
    """Print the present states, then every change, until Ctrl-C.

    A machine that is removed, and a guest of `inn run` that is gone, is
    "removed". NAMEs choose some guests; without any, new ones appear too. A disk that
    gets full is told of under its guest's state, once for each change between NORMAL,
    LOW (less than a tenth or 1G is free) and CRITICAL (less than a fiftieth or 256M).
    """
    with interruptible(), contextlib.closing(Changes(host_layout(), names)) as changes:
        for change in changes.follow(reader_of=1):
            if change is None:
                sys.stdout.flush()
            elif output_format == "json":
                print_json(
                    {
                        "name": change.name,
                        "state": change.state,
                        "at": change.at,
                        "reason": change.reason,
                        **({"disk": change.disk, "space": change.space} if change.disk else {}),
                    }
                )
            else:
                at = datetime.fromtimestamp(change.at).astimezone()
                told = f" ({change.reason})" if change.reason else ""
                line = f"{at.isoformat(timespec='milliseconds')}  {change.name}  {change.state}"
                sys.stdout.write(f"{line}{told}\n")
