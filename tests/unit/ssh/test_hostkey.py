# SPDX-License-Identifier: Apache-2.0
"""The host key: made once, kept private, known to ssh."""

from __future__ import annotations

from pathlib import Path

import pytest

from innkeeper.errors import HostError
from innkeeper.registry.layout import Layout
from innkeeper.ssh.hostkey import host_key


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(runtime_dir=str(tmp_path), cache_dir=str(tmp_path), state_dir=str(tmp_path))


def test_it_is_made_once(layout: Layout) -> None:
    first = host_key(layout)
    assert host_key(layout).export_public_key() == first.export_public_key()
    assert layout.ssh.host_key.stat().st_mode & 0o777 == 0o600
    assert layout.ssh.path.stat().st_mode & 0o777 == 0o700
    known = layout.ssh.known_hosts.read_bytes()
    assert known.startswith(b"innkeeper ssh-ed25519 ")
    layout.ssh.known_hosts.unlink()
    host_key(layout)
    assert layout.ssh.known_hosts.read_bytes() == known


def test_a_damaged_key_is_named(layout: Layout) -> None:
    host_key(layout)
    layout.ssh.host_key.write_text("nonsense")
    with pytest.raises(HostError, match="cannot be used") as caught:
        host_key(layout)
    assert "remove the folder" in caught.value.fix
