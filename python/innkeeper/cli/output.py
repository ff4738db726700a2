# SPDX-License-Identifier: Apache-2.0
"""What people and programs see: progress and errors on stderr, data on stdout."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence

import click

from innkeeper.errors import InnError
from innkeeper.model.sizes import format_duration

JSON_VERSION = 1

# Of every verb that prints data.
FORMAT = click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
)


def print_json(value: dict[str, object]) -> None:
    """One JSON object on one line of stdout, with the format's version first."""
    import msgspec

    click.echo(msgspec.json.encode({"version": JSON_VERSION, **value}))


def render_error(error: InnError, *, as_json: bool) -> None:
    """The one way in which a failure is told."""
    if as_json:
        print_json({"error": error.as_dict()})
        return
    lines = [f"inn: error: {error.brief}"]
    if error.stage:
        lines.append(f"  at stage: {error.stage}")
    lines += [f"  | {line}" for line in error.evidence]
    if error.fix:
        lines.append(f"  to fix it: {error.fix}")
    click.echo("\n".join(lines), err=True)


class Progress:
    """Says what is going on: one changing line on a terminal, plain lines elsewhere.

    Elsewhere only steps that take long are told, so that the stderr of
    `inn run` is the guest command's own.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._live = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._quiet = quiet
        self._since = time.monotonic()
        self._shown = False

    def step(self, text: str) -> None:
        """A short step; shown on a terminal until the next one."""
        if self._live:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
            self._shown = True

    def line(self, text: str) -> None:
        """A step that takes long; stays on the screen or in the log."""
        if not self._quiet:
            self.clear()
            click.echo(f"inn: {text}", err=True)

    def clear(self) -> None:
        """Take the changing line away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False


def render_timings(rows: Iterable[tuple[str, float, int]]) -> str:
    """A table of (name, seconds, depth), with the total last."""
    rows = list(rows)
    width = max(len(name) + 2 * depth for name, _, depth in rows)
    lines = [
        f"  {'  ' * depth + name:<{width}}  {format_duration(seconds):>9}"
        for name, seconds, depth in rows
    ]
    return "\n".join(lines)


def columns(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines of a table, each column as wide as its widest text."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def ago(since: object, now: float) -> str:
    """How long ago a time was, for people; "" for what is none."""
    if not isinstance(since, float):
        return ""
    return age(now - since)


def age(seconds: float) -> str:
    """A time span in its largest unit: "5s", "3m", "2h", "7d"."""
    seconds = max(0, int(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
