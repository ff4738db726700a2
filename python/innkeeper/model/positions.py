# SPDX-License-Identifier: Apache-2.0
"""Where tables and keys stand in a TOML text, for messages: `tomllib` does not say."""

from __future__ import annotations

import re

_HEADER = re.compile(r"\s*(?P<open>\[\[?)\s*(?P<path>[^\]]+?)\s*\]")
_KEY = re.compile(r"\s*(?P<key>[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')\s*(?:\.[^=]*)?=")
_QUOTES = ('"""', "'''")


class Positions:
    """The lines of a text that `tomllib` has taken, by table and key.

    A table is named by its path, such as "machines.web"; the tables of an array
    by the path and their place, such as "policy.0".
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[tuple[str, str], tuple[int, int]] = {}
        self._scan(text)

    def table(self, path: str) -> int:
        """The line of a table's header, from 1; 1 where it has none."""
        return self._lines.get((path, ""), (1, 1))[0]

    def place(self, path: str, key: str) -> str:
        """The place of a key, else of its table, as "line L, column C"."""
        line, column = self._lines.get((path, key)) or self._lines.get((path, "")) or (1, 1)
        return f"line {line}, column {column}"

    def _scan(self, text: str) -> None:
        table, counts = "", dict[str, int]()
        quote = ""
        for number, line in enumerate(text.splitlines(), 1):
            if quote:
                quote = "" if quote in line else quote
                continue
            header = _HEADER.match(line)
            key = None if header else _KEY.match(line)
            if header:
                table = ".".join(part.strip(" \"'") for part in header["path"].split("."))
                if header["open"] == "[[":
                    place = counts.get(table, 0)
                    counts[table] = place + 1
                    table = f"{table}.{place}"
                self._lines[table, ""] = (number, header.start("open") + 1)
            elif key:
                self._lines.setdefault(
                    (table, key["key"].strip("\"'")), (number, key.start("key") + 1)
                )
            # A text over several lines holds neither.
            quote = next((mark for mark in _QUOTES if line.count(mark) % 2), "")
