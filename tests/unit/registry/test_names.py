# SPDX-License-Identifier: Apache-2.0
"""Names as locks, and what is swept."""

from __future__ import annotations

from pathlib import Path

import pytest

from innkeeper.errors import NameInUse
from innkeeper.model.names import check_name
from innkeeper.registry.layout import Layout
from innkeeper.registry.names import (
    check_free,
    claim,
    ephemeral_name,
    remove_dead,
    sweep,
)
from innkeeper.registry.records import read_state


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    return Layout(
        runtime_dir=str(runtime), cache_dir=str(tmp_path), state_dir=str(tmp_path / "state")
    )


def test_a_name_is_a_lock(layout: Layout) -> None:
    held = claim(layout, "box")
    with pytest.raises(NameInUse, match="a guest named 'box' is running") as caught:
        claim(layout, "box")
    assert "its keeper is process" in caught.value.evidence[0]
    with pytest.raises(NameInUse):
        check_free(layout, "box")
    held.release()
    check_free(layout, "box")
    claim(layout, "box").release()


def test_a_claim_leaves_nothing_behind(layout: Layout) -> None:
    held = claim(layout, "box")
    held.folder.vsock.touch()
    assert held.folder.path.stat().st_mode & 0o777 == 0o700
    held.release()
    held.release()
    assert list(layout.runtime.iterdir()) == []


def test_each_guest_has_a_cid_of_its_own(layout: Layout) -> None:
    claims = [claim(layout, name) for name in ("a", "b", "c")]
    assert [held.guest_cid for held in claims] == [32, 33, 34]
    claims[1].release()
    again = claim(layout, "d")
    assert again.guest_cid == 33
    for held in (*claims, again):
        held.release()


def test_folders_of_dead_guests_are_swept_and_live_ones_kept(layout: Layout) -> None:
    alive = claim(layout, "alive")
    dead = layout.guest("dead")
    dead.path.mkdir()
    dead.vsock.touch()
    assert sweep(layout) == ("dead",)
    assert alive.folder.path.is_dir()
    remove_dead(layout, "alive")
    assert alive.folder.path.is_dir()
    alive.release()


def test_the_state_on_disk_says_who_keeps_the_guest(layout: Layout) -> None:
    held = claim(layout, "box")
    state = read_state(held.folder)
    assert state is not None
    assert (state.name, state.state, state.guest_cid) == ("box", "starting", 32)
    held.folder.state.write_text("{")
    assert read_state(held.folder) is None
    held.release()


def test_ephemeral_names_are_machine_names() -> None:
    names = {ephemeral_name() for _ in range(100)}
    assert len(names) == 100
    assert all(check_name(name) for name in names)
