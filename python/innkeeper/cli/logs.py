# SPDX-License-Identifier: Apache-2.0
"""`inn logs`: what a machine's guest wrote on its console, and what its keeper did."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import click

from innkeeper.cli.output import FORMAT, print_json
from innkeeper.errors import UsageError
from innkeeper.keeper.logs import LOG_SOURCES, Line, Logs, Source, machine_logs
from innkeeper.model.sizes import parse_duration
from innkeeper.registry.layout import host_layout
from innkeeper.system.interrupt import interruptible

_SOURCES: dict[str, tuple[Source, ...]] = {
    "console": ("console",),
    "guest": ("guest",),
    "keeper": ("keeper",),
    "all": LOG_SOURCES,
}


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on until the guest has ended.")
@click.option(
    "--source",
    type=click.Choice(list(_SOURCES)),
    default="console",
    show_default=True,
    help="guest: what its kernel and programs log; keeper: states, stages and warnings.",
)
@click.option(
    "--since",
    metavar="TIME",
    help="Only lines from then on: 10m and the like back from now, or 2026-01-31T12:00.",
)
@click.option("--grep", metavar="REGEX", help="Only lines in which this is found.")
@click.option("-n", "--lines", type=click.IntRange(min=0), help="Only the last LINES so far.")
@click.option("-t", "--timestamps", is_flag=True, help="The time before each line.")
@FORMAT
@click.argument("name")
def logs(name: str, follow: bool, source: str, **values: Any) -> None:
    """Print the logs of the machine NAME; control characters are made visible."""
    wanted = _Wanted(values["since"], values["grep"])
    layout = host_layout()
    opened = Logs(layout, name, machine_logs(layout, name), _SOURCES[source])
    with interruptible(), contextlib.closing(opened):
        found: Iterable[Line | None] = opened.follow(reader_of=1) if follow else opened.present()
        for line in _last(wanted.of(found), values["lines"]):
            if line is None:
                sys.stdout.flush()
            elif values["output_format"] == "json":
                print_json(
                    {"source": line.source, "at": line.at, "text": line.text, "lost": line.lost}
                )
            else:
                labelled = f"{line.source:<7} {line.text}" if source == "all" else line.text
                head = f"{_time_text(line.at)} " if values["timestamps"] else ""
                sys.stdout.write(f"{head}{labelled}\n")


class _Wanted:
    """Which lines are asked for."""

    def __init__(self, since: str | None, grep: str | None) -> None:
        self._since = parse_since(since, time.time()) if since is not None else 0.0
        try:
            self._pattern = re.compile(grep) if grep is not None else None
        except re.error as exc:
            raise UsageError(f"{grep!r} is no regular expression: {exc}", stage="logs") from exc

    def of(self, lines: Iterable[Line | None]) -> Iterator[Line | None]:
        """Those of these lines; a None is passed on."""
        for line in lines:
            if line is None or (
                line.at >= self._since
                and (self._pattern is None or self._pattern.search(line.text))
            ):
                yield line


def _last(lines: Iterator[Line | None], count: int | None) -> Iterator[Line | None]:
    """Of the lines before the first None, only the last ones."""
    if count is not None:
        kept: deque[Line] = deque(maxlen=count)
        for line in lines:
            if line is None:
                break
            kept.append(line)
        yield from kept
        yield None
    yield from lines


def parse_since(text: str, now: float) -> float:
    """Seconds since the epoch of a time, or of a duration before `now`.

    :raise UsageError: it is neither.
    """
    with contextlib.suppress(UsageError):
        return now - parse_duration(text)
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as exc:
        raise UsageError(
            f"{text!r} is neither a duration nor a time",
            fix="write it as 10m or 2026-01-31T12:00:00, with Z or an offset where it is not local",
        ) from exc


def _time_text(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds")
