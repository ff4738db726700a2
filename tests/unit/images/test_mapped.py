# SPDX-License-Identifier: Apache-2.0
"""The namespace of an ordinary user: what is asked of the host, and a host that refuses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from innkeeper.errors import HostError
from innkeeper.images import mapped

# As util-linux 2.41: refused with --map-auto, a process stays and keeps the pipes open.
UNSHARE = """#!/bin/sh
case "$*" in *--map-auto*) exec sleep 30 ;; esac
echo "unshare: unshare failed: Operation not permitted" >&2
exit 1
"""


def test_probes() -> None:
    assert mapped.namespace_probes(0) == ((*mapped.root_prefix(0), "true"),)
    first, second = mapped.namespace_probes(1000)
    assert "--user" in first
    assert "--map-auto" not in first
    assert second == (*mapped.root_prefix(1000), "true")


def test_a_host_that_refuses_namespaces_says_so_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "unshare"
    program.write_text(UNSHARE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mapped, "_check_ids", lambda _: None)
    with pytest.raises(HostError) as caught:
        mapped.check_mapped()
    assert "unshare: unshare failed: Operation not permitted" in caught.value.evidence
