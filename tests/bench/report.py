# SPDX-License-Identifier: Apache-2.0
"""Results as a table for people. Pure."""

from __future__ import annotations

from tests.bench.samples import Ratio, Result, Series

_HEADER = ("", "median", "p90", "p99", "runs")


def render(name: str, result: Result) -> str:
    """One measurement: its series, its ratios with their targets, its notes."""
    rows = [_HEADER, *(_series_row(series) for series in result.series)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = [f"== {name}"]
    for row in rows:
        first, *others = row
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append(f"  {first.ljust(widths[0])}  " + "  ".join(cells))
    lines += [_ratio_line(ratio) for ratio in result.ratios]
    lines += [f"  note: {note}" for note in result.notes]
    return "\n".join(lines)


def _series_row(series: Series) -> tuple[str, ...]:
    tails = (series.median, series.tail(0.9), series.tail(0.99))
    runs = str(len(series.values))
    if len(set(series.values)) == 1:
        return (series.name, amount(series.median, series.unit), "", "", runs)
    return (series.name, *(amount(value, series.unit) for value in tails), runs)


def _ratio_line(ratio: Ratio) -> str:
    unit = "" if ratio.unit == "×" else f" {ratio.unit}"
    line = f"  -> {ratio.name}: {number(ratio.value)}{unit}"
    if ratio.met is None:
        return line
    bound = f"≤ {ratio.at_most:g}" if ratio.at_most is not None else f"≥ {ratio.at_least:g}"
    return f"{line}  (target {bound}{unit}: {'met' if ratio.met else 'MISSED'})"


def amount(value: float, unit: str) -> str:
    """A value with its unit; seconds below one are shown in milliseconds."""
    if unit == "s" and abs(value) < 1:
        return f"{number(value * 1000)} ms"
    return f"{number(value)} {unit}"


def number(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.2g}"
