# SPDX-License-Identifier: Apache-2.0
"""Maps of users and groups between a guest and its host, as people write them.

::

    GUEST              the guest's id GUEST is the host's user who shares
    GUEST-HOST         ... is the host's id HOST
    GUEST-HOST-COUNT   COUNT ids from there on, each the next one's

Colons do as well as dashes where nothing else is written with them, as podman and
virtiofsd have it. A line of the kernel's own maps (user_namespaces(7)) has three
numbers: first id inside, first id outside, how many.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from innkeeper.errors import UsageError

# The last id is "none" (chown(2)).
ID_END = 2**32 - 1
# The kernel takes 340 lines; ids that are told one by one are meant to be read.
RANGES_MAXIMUM = 32
_FIX = "write GUEST, GUEST-HOST or GUEST-HOST-COUNT, as uid=1000-1234 or id=0-100000-65536"

Line = tuple[int, int, int]


class IdRange(msgspec.Struct, frozen=True, kw_only=True):
    """Ids of the guest and what they are on the host, one after the other.

    :ivar host: None is whoever shares, for one id.
    """

    guest: int
    host: int | None = None
    count: int = 1

    def __str__(self) -> str:
        host = "" if self.host is None else f"-{self.host}"
        return f"{self.guest}{host}{f'-{self.count}' if self.count != 1 else ''}"


def parse_range(text: str) -> IdRange:
    """A range as text.

    :raise UsageError: it is none, or beyond what ids there are.
    """
    words = text.replace(":", "-").split("-")
    # isdecimal() knows other scripts too.
    if len(words) > 3 or not all(word.isascii() and word.isdecimal() for word in words):
        raise UsageError(f"{text!r} is no range of users or groups", fix=_FIX)
    # More digits than any id has; int() of very many is refused by Python itself.
    if any(len(word) > 10 for word in words):
        raise UsageError(f"{text!r} goes beyond the last id, {ID_END - 1}", fix=_FIX)
    guest, host, count = (int(words[at]) if at < len(words) else None for at in range(3))
    assert guest is not None
    made = IdRange(guest=guest, host=host, count=1 if count is None else count)
    if made.count < 1:
        raise UsageError(f"{text!r} is a range of nobody", fix=_FIX)
    if max(made.guest, made.host or 0) + made.count > ID_END:
        raise UsageError(f"{text!r} goes beyond the last id, {ID_END - 1}", fix=_FIX)
    return made


def check_ranges(ranges: tuple[IdRange, ...], kind: str) -> None:
    """Refuse a map in which somebody is two.

    :param kind: "uid" or "gid", for errors.
    :raise UsageError: ranges overlap on one side, or there are too many.
    """
    if len(ranges) > RANGES_MAXIMUM:
        raise UsageError(f"{len(ranges)} ranges of {kind}; {RANGES_MAXIMUM} are possible")
    sides = {
        "guest": [(one.guest, one.count, one) for one in ranges],
        "host": [(-1 if one.host is None else one.host, one.count, one) for one in ranges],
    }
    for side, spans in sides.items():
        spans.sort(key=lambda span: span[0])
        for (start, count, one), (later, _, other) in pairwise(spans):
            if start + count > later:
                raise UsageError(
                    f"{kind} {one} and {other} overlap on the {side}",
                    fix="an id is one other; `squash` makes all of the guest's users one",
                )


def lines(ranges: Sequence[IdRange], own: int) -> tuple[Line, ...]:
    """A map with the guest's ids inside.

    :param own: the id of whoever shares.
    """
    return tuple((one.guest, own if one.host is None else one.host, one.count) for one in ranges)


def subordinate_ranges(table: str, user: str, uid: int) -> tuple[tuple[int, int], ...]:
    """What a /etc/subuid or /etc/subgid gives a user: first id and how many, of each line."""
    found = []
    for line in table.splitlines():
        owner, _, rest = line.strip().partition(":")
        start, _, count = rest.partition(":")
        if owner in (user, str(uid)) and start.isdecimal() and count.isdecimal():
            found.append((int(start), int(count)))
    return tuple(found)


def fill(taken: tuple[Line, ...], spare: Iterable[tuple[int, int]]) -> tuple[Line, ...]:
    """A map in which the ids that are free inside are the spare ones outside, in order.

    :param taken: what is mapped already.
    :param spare: first id and how many; what `taken` has of them is left out.
    """
    inside = _without([(0, ID_END)], [(first, count) for first, _, count in taken])
    outside = _without(list(spare), [(first, count) for _, first, count in taken])
    made = list(taken)
    while inside and outside and len(made) < RANGES_MAXIMUM * 2:
        (guest, places), (host, ids) = inside[0], outside[0]
        count = min(places, ids)
        made.append((guest, host, count))
        for spans, start, left in ((inside, guest, places), (outside, host, ids)):
            spans[:1] = [(start + count, left - count)] if left > count else []
    return tuple(sorted(made))


def _without(spans: list[tuple[int, int]], gone: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans (first, count) without those that are gone, in order."""
    left = sorted((start, start + count) for start, count in spans)
    for first, count in gone:
        end = first + count
        parts = [
            part
            for start, stop in left
            for part in ((start, min(stop, first)), (max(start, end), stop))
            if part[0] < part[1]
        ]
        left = parts
    return [(start, stop - start) for start, stop in left]
