# SPDX-License-Identifier: Apache-2.0
"""What a measurement returns: series of samples, and ratios between them. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field


class Skipped(Exception):
    """A measurement, or one of its cases, cannot be done on this host; the text says why."""


class Failed(Exception):
    """Something that was started did not do what it should; the text has the evidence."""


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, interpolated."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


@dataclass
class Series:
    """Samples of one case.

    :ivar more_is_better: a rate; its bad tail is the lower one.
    :ivar failed: runs that gave no sample.
    :ivar reason: why the last of them failed.
    """

    name: str
    unit: str
    values: list[float] = field(default_factory=list)
    more_is_better: bool = False
    failed: int = 0
    reason: str = ""

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    def tail(self, share: float) -> float:
        """The value that `share` of the samples are better than."""
        return quantile(self.values, 1 - share if self.more_is_better else share)

    def as_dict(self) -> dict[str, object]:
        """For the JSON file: the summary and every sample."""
        summary = {
            "median": self.median,
            "p90": self.tail(0.9),
            "p99": self.tail(0.99),
            "best": self.tail(0.0),
            "worst": self.tail(1.0),
        }
        return {
            "name": self.name,
            "unit": self.unit,
            "more_is_better": self.more_is_better,
            "runs": len(self.values),
            "failed": self.failed,
            **{key: round(value, 6) for key, value in summary.items()},
            "values": [round(value, 6) for value in self.values],
        }


@dataclass(frozen=True)
class Ratio:
    """A comparison, and what it should be: at most `at_most` or at least `at_least`."""

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None
    unit: str = "×"

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.at_most is not None:
            return self.value <= self.at_most
        if self.at_least is not None:
            return self.value >= self.at_least
        return None

    def as_dict(self) -> dict[str, object]:
        """For the JSON file."""
        return {
            "name": self.name,
            "value": round(self.value, 4),
            "unit": self.unit,
            "at_most": self.at_most,
            "at_least": self.at_least,
            "met": self.met,
        }


@dataclass
class Result:
    """What one measurement found.

    :ivar notes: what the numbers do not say, such as a case that was skipped.
    """

    series: list[Series] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, found: Mapping[str, Series]) -> None:
        """Keep the series that have samples; say which have none or lost some."""
        for series in found.values():
            if series.failed:
                self.notes.append(f"{series.name}: {series.failed} runs failed: {series.reason}")
            if series.values:
                self.series.append(series)

    def compare(
        self,
        ours: Series,
        theirs: Series,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Note the ratio of the medians, where both have samples."""
        if ours.values and theirs.values and theirs.median:
            name = f"{ours.name} / {theirs.name}"
            value = ours.median / theirs.median
            self.ratios.append(Ratio(name, value, at_most=at_most, at_least=at_least))


def interleave(
    cases: Mapping[str, Callable[[], float]], runs: int, unit: str, *, warm_up: int = 1
) -> dict[str, Series]:
    """Run every case in turn, A B A B …, so that noise of the host hits all of them.

    The first `warm_up` rounds are thrown away: they fill the page cache.
    """
    found = {name: Series(name, unit) for name in cases}
    for number in range(warm_up + runs):
        for name, once in cases.items():
            try:
                value = once()
            except Failed as failure:
                found[name].failed += 1
                found[name].reason = str(failure)
                if found[name].failed > runs:
                    raise
                continue
            if number >= warm_up:
                found[name].values.append(value)
    return found
