# SPDX-License-Identifier: Apache-2.0
"""Folders that are watched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from innkeeper.system.follow import FolderWatch


def test_news_of_a_folder_wakes_and_names_the_file(tmp_path: Path) -> None:
    with FolderWatch() as watch:
        assert watch.add(tmp_path)
        assert not watch.add(tmp_path / "missing")
        assert watch.wait(0) == set()
        (tmp_path / "a").write_text("x")
        assert watch.wait(5) == {watch.fd}
        assert watch.take() == {tmp_path / "a"}
        assert watch.take() == set()
        (tmp_path / "a").rename(tmp_path / "b")
        watch.wait(5)
        assert tmp_path / "b" in watch.take()


def test_a_reader_that_goes_away_ends_the_wait(tmp_path: Path) -> None:
    read_fd, write_fd = os.pipe()
    with FolderWatch() as watch:
        assert watch.wait(0, reader_of=write_fd) == set()
        os.close(read_fd)
        with pytest.raises(BrokenPipeError):
            watch.wait(5, reader_of=write_fd)
    os.close(write_fd)
