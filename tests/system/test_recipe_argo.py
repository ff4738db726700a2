# SPDX-License-Identifier: Apache-2.0
"""The recipe `argo`: its Makefile does what its page says, and the page says what comes of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from console_blocks import blocks
from debian_images import ARGO, BUILD_LIMIT_S, provide_argo
from guests import INN

ROOT = ARGO.parents[1]
LIMIT_S = 170


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        cwd=ROOT,
        env={**os.environ, "INN": str(ROOT / ".venv/bin/inn")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def make(target: str) -> subprocess.CompletedProcess[str]:
    """`make -C recipes/argo TARGET`, as a new user does it."""
    return run("make", "--no-print-directory", "-C", "recipes/argo", *target.split())


def constant(transcript: str) -> str:
    """Without times, and ports that a kernel chose."""
    return re.sub(r'("at"|"from_port"):[0-9.]+', r"\1:0", transcript)


def topologies() -> list[object]:
    listed = run(*INN, "ps", "--format", "json")
    found = json.loads(listed.stdout)["topologies"]
    assert isinstance(found, list)
    return found


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of its own, in which nothing is but the image."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("INN_STATE_DIR", str(folder))
    assert provide_argo() == "argo"
    return folder


@pytest.mark.slow
@pytest.mark.timeout(BUILD_LIMIT_S + 3 * LIMIT_S)
def test_the_page_is_what_make_does(state: Path) -> None:
    done = make("")
    assert done.returncode == 0, done.stdout + done.stderr
    page = "".join(blocks(ARGO / "README.md", "console"))
    assert constant(done.stdout) == constant(page), done.stderr
    assert topologies() == []
    # What breaks off in its middle leaves no guests behind either.
    broken = state / "broken.md"
    broken.write_text("```console\n$ inn up recipes/argo/topology.toml\n$ false\n$ echo no\n```\n")
    done = run("recipes/argo/follow", str(broken))
    assert (done.returncode, "no\n" in done.stdout) == (1, False), done.stderr
    assert topologies() == []
    # Twice: what is gone need not be taken away.
    for _ in range(2):
        done = make("clean")
        assert done.returncode == 0, done.stderr
    for noun in ("images", "machines"):
        assert [path.name for path in (state / noun).glob("[!.]*")] == [], noun


def test_the_page_names_the_image_as_the_makefile_builds_it() -> None:
    command = "inn image build debian --file recipes/argo/image.toml --name argo"
    for file in ("README.md", "image.toml"):
        assert command in (ARGO / file).read_text(), file
    assert (
        command.removeprefix("inn ").replace("recipes/argo/", "") in (ARGO / "Makefile").read_text()
    )
