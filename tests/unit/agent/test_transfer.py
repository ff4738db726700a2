# SPDX-License-Identifier: Apache-2.0
"""The scripts that run in the guest, in a shell of the host."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from innkeeper.agent import transfer
from innkeeper.agent.transfer import Peer
from innkeeper.errors import GuestError, InnError, UsageError

PEER = Peer("box", connect=lambda: pytest.fail("not here"), watch_fd=-1, on_watch=lambda: None,
            on_progress=lambda _count: None)  # fmt: skip


def run(script: str, *arguments: str, path: str = "/usr/bin:/bin") -> int:
    shell = shutil.which("sh")
    assert shell is not None
    return subprocess.run(
        [shell, "-c", script, "sh", *arguments],
        env={"PATH": path}, stdin=subprocess.DEVNULL, capture_output=True, check=False,
    ).returncode  # fmt: skip


def explain(code: int) -> InnError:
    return transfer._explain(PEER, code, "/x", ())


def test_a_guest_without_tar_is_named(tmp_path: Path) -> None:
    for script in (transfer._PUT_FILE, transfer._PUT_FOLDER, transfer._GET):
        error = explain(run(script, str(tmp_path), "a", "t", path=str(tmp_path)))
        assert isinstance(error, GuestError)
        assert error.brief == "there is no tar in 'box'"


def test_what_is_in_the_way_or_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for script in (transfer._PUT_FILE, transfer._PUT_STREAM):
        assert "is in the way" in explain(run(script, str(tmp_path), "a", "t")).brief
    assert isinstance(explain(run(transfer._GET, str(tmp_path), "b")), UsageError)
    assert "is a folder" in explain(run(transfer._GET_STREAM, str(tmp_path), "a")).brief
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_names_cannot_be_options_or_scripts(tmp_path: Path) -> None:
    for name in ("-rf", "$(touch evil)", "a b"):
        assert run(transfer._PUT_STREAM, str(tmp_path), name, "t") == 0
        assert run(transfer._GET, str(tmp_path), name) == 0
        assert run(transfer._GET_STREAM, str(tmp_path), name) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["$(touch evil)", "-rf", "a b"]
