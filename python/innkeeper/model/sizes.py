# SPDX-License-Identifier: Apache-2.0
"""Sizes and durations as people write them."""

from __future__ import annotations

import re

from innkeeper.errors import UsageError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?B)?", re.IGNORECASE)
_FACTORS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1024 * GIB}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_size(text: str) -> int:
    """Bytes of "512M", "2G", "1.5GiB" or "1048576"; units are powers of 1024.

    :raise UsageError: it is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not a size", fix="write it as 512M or 2G")
    return int(float(match[1]) * _FACTORS[match[2].upper()])


def format_size(size_bytes: int) -> str:
    """The shortest exact or one-decimal text, as "512M" or "1.5G"."""
    for unit in ("T", "G", "M", "K"):
        factor = _FACTORS[unit]
        if size_bytes >= factor:
            value = size_bytes / factor
            return f"{value:.0f}{unit}" if value == int(value) else f"{value:.1f}{unit}"
    return f"{size_bytes}"


def parse_duration(text: str) -> float:
    """Seconds of "90", "1.5s", "250ms", "2m" or "1h".

    :raise UsageError: it is not a duration, or not more than zero.
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if seconds <= 0:
        raise UsageError(f"{text!r} is not a duration", fix="write it as 90, 1.5s, 250ms or 2m")
    return seconds


def format_duration(seconds: float) -> str:
    """Seconds for people: "0.34 s", "12.0 s", "2 m 05 s"."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest:02d} s"
