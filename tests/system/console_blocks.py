# SPDX-License-Identifier: Apache-2.0
"""The console blocks of a page: commands, and what the page says that they print."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """A command of a page.

    :ivar shown: what stands below it; "" where nothing does.
    """

    command: str
    shown: str


def blocks(page: Path, kind: str) -> list[str]:
    """The content of the page's fenced blocks of a kind, in their order."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def steps(block: str) -> list[Step]:
    """The commands of a console block with what they print, without prompts and comments."""
    found: list[Step] = []
    for line in block.splitlines(keepends=True):
        if line.startswith("$ "):
            command = re.sub(r"\s{2,}#.*$", "", line[2:].rstrip("\n"))
            found.append(Step(command, ""))
        elif found:
            found[-1] = Step(found[-1].command, found[-1].shown + line)
    return found
