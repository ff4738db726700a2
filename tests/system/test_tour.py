# SPDX-License-Identifier: Apache-2.0
"""The tour of image, disk and share, as it stands in its page, from nothing to nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from console_blocks import blocks, steps
from debian_images import BUILD_LIMIT_S, cached_export, provide_debian
from guests import INN

from innkeeper.model.recipe import Recipe

PAGE = Path(__file__).resolve().parents[2] / "docs/tutorials/tour.md"
BUILD = "inn image build debian --init agent --name small"
PRELUDE = f'set -e -o pipefail; inn() {{ {" ".join(INN)} "$@"; }}; '


@pytest.mark.slow
@pytest.mark.timeout(BUILD_LIMIT_S + 300)
def test_the_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    monkeypatch.setenv("INN_STATE_DIR", str(state))
    folder = tmp_path / "here"
    folder.mkdir()
    page = [step for block in blocks(PAGE, "console") for step in steps(block)]
    assert page[0].command == BUILD
    # The same image, which other tests build too; what is built once on a host is kept.
    provide_debian("small", Recipe(init="agent"), "--init", "agent")
    assert cached_export(Recipe(init="agent")).is_dir()
    for step in page[1:]:
        done = subprocess.run(
            ["bash", "-c", PRELUDE + step.command],
            cwd=folder,
            env=os.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        # A command without output on the page is one whose output does not matter.
        printed = done.stdout if step.shown else ""
        assert (done.returncode, printed) == (0, step.shown), f"{step.command}: {done.stderr}"
    assert list(folder.iterdir()) == []
    for noun in ("images", "disks", "machines"):
        assert [path.name for path in (state / noun).glob("[!.]*")] == [], noun
