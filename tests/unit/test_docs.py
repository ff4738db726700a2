# SPDX-License-Identifier: Apache-2.0
"""The pages for people: their links lead somewhere, and none is forgotten."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").rglob("*.md")]
)

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The names that a page's headings get: small letters, hyphens for blanks."""
    text = _FENCED.sub("", page.read_text())
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere, each with its reason."""
    found = []
    for link in _LINK.findall(_FENCED.sub("", page.read_text())):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            found.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(target):
            found.append(f"{link}: no such heading")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One: two\n\n[a](#one-two) [b](#three) [c](none.md) [d](https://x/)\n")
    assert broken(page) == ["#three: no such heading", "none.md: no such file"]


def test_every_how_to_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [f"how-to/{page.name}" for page in (ROOT / "docs" / "how-to").glob("*.md")]
    assert [page for page in pages if f"]({page})" not in index] == []


def test_every_recipe_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [
        f"../recipes/{page.parent.name}/README.md"
        for page in (ROOT / "recipes").glob("*/README.md")
    ]
    assert [page for page in pages if f"]({page})" not in index] == []


def test_decisions_are_numbered() -> None:
    decisions = sorted((ROOT / "docs/adr").glob("*.md"))
    for number, page in enumerate(decisions, 1):
        assert page.name.startswith(f"{number:04}-"), page.name
        assert page.read_text().startswith(f"# {number}. "), page.name
