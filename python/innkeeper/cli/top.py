# SPDX-License-Identifier: Apache-2.0
"""`inn top`: what each running guest takes of this host, from records and /proc."""

from __future__ import annotations

import os
import signal
import sys
from typing import get_args

import click
import msgspec

from innkeeper.cli.output import FORMAT, age, columns, print_json
from innkeeper.errors import UnknownName, UsageError
from innkeeper.model.sizes import format_size, parse_duration
from innkeeper.registry.layout import Layout, host_layout
from innkeeper.registry.machines import known_names
from innkeeper.registry.usage import Row, Sample, SortKey, take_sample, usage_rows, wait_until
from innkeeper.system.interrupt import Interrupted, held_back, interruptible
from innkeeper.system.terminal import is_terminal, window_size

# Between the two samples of one table, and before the first of many.
_SHORT_S = 0.5
_REFRESH_S = 2.0
# CPU time is counted in hundredths of a second.
_SHORTEST_S, _LONGEST_S = 0.1, 86400.0

# console_codes(4), xterm's control sequences: the screen of its own that full-screen
# programs get, without a cursor; and back.
_ENTER = "\x1b[?1049h\x1b[?25l"
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"

_HEADS = ("NAME", "STATE", "CPU", "MEMORY", "GUEST", "READ", "WRITTEN", "UPTIME")


@click.command()
@click.option("--once", is_flag=True, help="Print one table and exit.")
@click.option(
    "-i",
    "--interval",
    metavar="TIME",
    help="Between two samples, such as 5, 0.5 or 1m. "
    f"[default: {_REFRESH_S:g}; {_SHORT_S:g} for one table]",
)
@click.option(
    "--sort",
    type=click.Choice(get_args(SortKey)),
    default="cpu",
    show_default=True,
    help="What the first rows have most of; io is read and written together.",
)
@FORMAT
@click.argument("names", nargs=-1, metavar="[NAME]...")
def top(
    names: tuple[str, ...],
    once: bool,
    interval: str | None,
    sort: SortKey,
    output_format: str,
) -> None:
    """Show what running guests take of this host, until Ctrl-C.

    NAMEs choose some guests; without any, all are shown as they come and go.
    Where stdout is no terminal, and with --once or --format json, one table is
    printed. Read from records and /proc; no keeper is asked.

    \b
    CPU      time of the guest's QEMU and keeper; 100% is one CPU of the host
    MEMORY   of the host, held by both; what they share counts once
    GUEST    memory that the guest has now, of that which its machine says
    READ     bytes a second from the host's disks; what the host had cached
             is not read
    WRITTEN  bytes a second to the host's disks
    UPTIME   since QEMU was started; a restart begins anew
    """
    interval_s = _interval_s(interval)
    layout = host_layout()
    known = known_names(layout)
    for name in names:
        if name not in known:
            raise UnknownName("machine", name, known, stage="top")
    lasting = is_terminal(1) and os.environ.get("TERM") != "dumb"
    if once or output_format == "json" or not lasting:
        _print_one(layout, names, interval_s or _SHORT_S, sort, as_json=output_format == "json")
    else:
        _refresh(layout, names, interval_s or _REFRESH_S, sort)


def _interval_s(text: str | None) -> float | None:
    if text is None:
        return None
    seconds = parse_duration(text)
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise UsageError(
            f"--interval {text} is too short or too long", fix="give 0.1 (seconds) up to 24h"
        )
    return seconds


def _print_one(
    layout: Layout, names: tuple[str, ...], interval_s: float, sort: SortKey, *, as_json: bool
) -> None:
    before, after = _next(layout, names, take_sample(layout, names), interval_s)
    rows = usage_rows(before, after, sort=sort)
    if as_json:
        interval_s = after.at_s - before.at_s
        print_json({"interval_s": interval_s, "guests": msgspec.to_builtins(rows)})
        return
    click.echo("\n".join(table(rows)))
    for name in names:
        if name not in after.guests:
            click.echo(f"inn: {name} does not run", err=True)


def _next(
    layout: Layout, names: tuple[str, ...], before: Sample, interval_s: float
) -> tuple[Sample, Sample]:
    """A sample with the one of `interval_s` later."""
    wait_until(before.at_s + interval_s)
    return before, take_sample(layout, names)


def _refresh(layout: Layout, names: tuple[str, ...], interval_s: float, sort: SortKey) -> None:
    try:
        with interruptible():
            sample = take_sample(layout, names)
            try:
                click.echo(_ENTER, nl=False)
                wait_s = min(_SHORT_S, interval_s)
                while True:
                    before, sample = _next(layout, names, sample, wait_s)
                    _draw(table(usage_rows(before, sample, sort=sort)))
                    wait_s = interval_s
            finally:
                with held_back():
                    click.echo(_LEAVE, nl=False)
    except Interrupted as exc:
        # Ctrl-C is the way out, and no failure.
        if exc.number != signal.SIGINT:
            raise


def _draw(lines: list[str]) -> None:
    """Replace what is on the screen; what does not fit is left out."""
    height, width = window_size(1)
    # A last column that is written holds the cursor, and erasing would take it away.
    shown = [line[: width - 1] + _REST_OF_LINE for line in lines[:height]]
    sys.stdout.write(_HOME + "\r\n".join(shown) + _REST_OF_SCREEN)
    sys.stdout.flush()


def table(rows: list[Row]) -> list[str]:
    """The lines for people."""
    return columns([_HEADS, *map(_line, rows)])


def _line(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        row.state,
        "" if row.cpu_percent is None else f"{row.cpu_percent:.1f}%",
        _size(row.memory_bytes),
        "/".join(filter(None, map(_size, _guest_memory(row)))),
        _size(row.read_bytes_per_s),
        _size(row.written_bytes_per_s),
        "" if row.uptime_s is None else age(row.uptime_s),
    )


def _guest_memory(row: Row) -> tuple[int | None, int | None]:
    return row.guest_memory_bytes, row.configured_memory_bytes


def _size(size: float | None) -> str:
    return "" if size is None else format_size(int(size))
