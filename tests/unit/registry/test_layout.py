# SPDX-License-Identifier: Apache-2.0
"""Where files are, for root and for users."""

from __future__ import annotations

from pathlib import Path

import pytest

from innkeeper.errors import HostError
from innkeeper.registry.layout import Layout, host_layout, plan_layout


@pytest.mark.parametrize(
    ("env", "uid", "runtime", "cache", "state"),
    [
        ({"HOME": "/root"}, 0, "/run/innkeeper", "/var/cache/innkeeper", "/var/lib/innkeeper"),
        (
            {"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/1000"},
            1000,
            "/run/user/1000/innkeeper",
            "/home/u/.cache/innkeeper",
            "/home/u/.local/state/innkeeper",
        ),
        (
            {"HOME": "/home/u"},
            1000,
            "/home/u/.local/state/innkeeper/run",
            "/home/u/.cache/innkeeper",
            "/home/u/.local/state/innkeeper",
        ),
        (
            {"HOME": "/home/u", "XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c"},
            1000,
            "/s/innkeeper/run",
            "/c/innkeeper",
            "/s/innkeeper",
        ),
        (
            {"INN_RUNTIME_DIR": "/r", "INN_CACHE_DIR": "/c", "INN_STATE_DIR": "/s"},
            0,
            "/r",
            "/c",
            "/s",
        ),
    ],
)
def test_folders_follow_xdg_and_fhs(
    env: dict[str, str], uid: int, runtime: str, cache: str, state: str
) -> None:
    assert plan_layout(env, uid) == Layout(runtime_dir=runtime, cache_dir=cache, state_dir=state)


def test_a_runtime_folder_that_others_can_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_folder = tmp_path / "run"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    monkeypatch.setenv("INN_RUNTIME_DIR", str(open_folder))
    monkeypatch.setenv("INN_STATE_DIR", str(tmp_path / "state"))
    with pytest.raises(HostError, match="other users can write"):
        host_layout()


def test_a_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INN_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(HostError, match=r"cannot create the folder .*/file/cache") as caught:
        host_layout()
    assert "INN_CACHE_DIR" in caught.value.fix
