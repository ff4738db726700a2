# SPDX-License-Identifier: Apache-2.0
"""Changes anywhere below a folder."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from innkeeper.system.tree_watch import Change, TreeWatch


@pytest.fixture
def watch() -> Iterator[TreeWatch]:
    made = TreeWatch(limit=16)
    yield made
    made.close()


def news(watch: TreeWatch) -> set[tuple[str, bool]]:
    """All there is by now, as paths and whether they went."""
    found: set[Change] = set()
    while select.select([watch.fd], [], [], 0)[0]:
        found |= set(watch.take())
    return {(os.fsdecode(change.path), change.gone) for change in found}


def test_files_and_folders_at_every_depth(watch: TreeWatch, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    odd = Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"/\xff"))
    odd.touch()
    watch.add("1f", str(tmp_path))
    assert news(watch) == set()
    odd.write_text("x")
    (tmp_path / "a" / "b" / "file").write_text("x")
    assert news(watch) == {(os.fsdecode(b"a/\xff"), False), ("a/b/file", False)}
    (tmp_path / "a" / "b" / "file").unlink()
    assert news(watch) == {("a/b/file", True)}
    # A change of attributes alone is what a guest answers with.
    odd.chmod(0o600)
    os.utime(odd)
    assert news(watch) == set()


def test_what_comes_later_is_watched_too(watch: TreeWatch, tmp_path: Path) -> None:
    watch.add("1f", str(tmp_path / "."))
    (tmp_path / "new" / "deep").mkdir(parents=True)
    (tmp_path / "new" / "deep" / "early").touch()
    assert {("new", False), ("new/deep", False), ("new/deep/early", False)} <= news(watch)
    (tmp_path / "new" / "deep" / "late").touch()
    assert news(watch) == {("new/deep/late", False)}
    (tmp_path / "new").rename(tmp_path / "moved")
    told = news(watch)
    assert {("new", True), ("moved", False), ("moved/deep/late", False)} <= told
    (tmp_path / "moved" / "deep" / "late").write_text("x")
    assert news(watch) == {("moved/deep/late", False)}


def test_a_folder_that_is_shared_twice(watch: TreeWatch, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    watch.add("a", str(tmp_path))
    watch.add("b", str(tmp_path / "inner"))
    (tmp_path / "inner" / "x").touch()
    assert set(watch.take()) == {Change("a", b"inner/x", False), Change("b", b"x", False)}
    watch.remove("b")
    (tmp_path / "inner" / "x").unlink()
    assert news(watch) == {("inner/x", True)}
    watch.remove("a")
    (tmp_path / "inner" / "y").touch()
    assert news(watch) == set()


def test_links_are_not_followed(watch: TreeWatch, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "shared" / "link").symlink_to(tmp_path / "other")
    watch.add("a", str(tmp_path / "shared"))
    (tmp_path / "other" / "x").touch()
    assert news(watch) == set()


def test_the_number_of_watches_is_bounded_and_counted(watch: TreeWatch, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}").mkdir()
    watch.add("a", str(tmp_path))
    assert watch.unwatched == 20 + 1 - 16


def test_after_an_overflow_everything_may_have_changed(watch: TreeWatch, tmp_path: Path) -> None:
    watch.add("a", str(tmp_path))
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 1 << 17:
        pytest.skip(f"the host queues {most} events")
    file = tmp_path / "x"
    # Two different events in turn: the same one twice would be one.
    for _ in range(most // 2 + 16):
        file.touch()
        file.unlink()
    told = news(watch)
    assert watch.overflows == 1
    assert ("", False) in told
