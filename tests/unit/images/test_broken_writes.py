# SPDX-License-Identifier: Apache-2.0
"""Images whose maker is killed, or finds the disk full, at each of its writes in turn."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_ins import Builder, Server

DRIVER = str(Path(__file__).parents[1] / "props" / "break_image.py")


class Breaker:
    """Runs the driver for one verb.

    :ivar before: a folder of images in which there is another `box`.
    """

    def __init__(self, folder: Path, preload: Path, builder: Builder, before: Path) -> None:
        self._work = folder / "work"
        self._env = {**builder.env, "LD_PRELOAD": str(preload)}
        self.before = before

    def rounds(self, how: str, verb: str, source: Path | str, *, before: bool) -> int:
        """How often it was broken; fails when something was not whole or did not work again."""
        old, driver = str(self.before) if before else "", str(DRIVER)
        done = subprocess.run(
            [sys.executable, driver, how, verb, str(source), old, str(self._work)],
            env=self._env,
            capture_output=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return int(json.loads(done.stdout)["rounds"])


@pytest.fixture
def breaker(preload: Path, builder: Builder, exported: Path) -> Iterator[Breaker]:
    # In memory where that can be: a round syncs dozens of files, and there are hundreds.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="inn-broken-", dir=memory))
    yield Breaker(folder, preload, builder, exported.parent.parent / "made")
    shutil.rmtree(folder)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["kill", "fill"])
def test_a_build(breaker: Breaker, how: str) -> None:
    assert breaker.rounds(how, "build", "", before=True) > 40


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["kill", "fill"])
def test_an_import(breaker: Breaker, how: str, root_tree: Path, tmp_path: Path) -> None:
    source = tmp_path / "root.tar"
    with tarfile.open(source, "w") as tar:
        tar.add(root_tree, ".")
    assert breaker.rounds(how, "import", source, before=True) > 15


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["kill", "fill"])
@pytest.mark.parametrize("before", [False, True], ids=["new", "replaced"])
def test_an_install_from_a_folder(
    breaker: Breaker, how: str, builder: Builder, tmp_path: Path, before: bool
) -> None:
    source = other_export(builder, tmp_path)
    assert breaker.rounds(how, "install", source, before=before) > 20


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["kill", "fill"])
def test_an_install_from_a_server(
    breaker: Breaker, how: str, builder: Builder, tmp_path: Path
) -> None:
    server = Server(other_export(builder, tmp_path).parent)
    try:
        assert breaker.rounds(how, "install", f"{server.address}/box", before=True) > 20
    finally:
        server.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["kill", "fill"])
def test_an_export(breaker: Breaker, how: str) -> None:
    assert breaker.rounds(how, "export", breaker.before, before=False) > 10


def other_export(builder: Builder, tmp_path: Path) -> Path:
    """A bundle to install that is not the one of the fixture `exported`."""
    folder = tmp_path / "other" / "box"
    for arguments in (("build", "debian", "--name", "box"), ("export", "box", str(folder))):
        code, _, error = builder.run(*arguments)
        assert code == 0, error
    assert os.listdir(folder.parent) == ["box"]  # noqa: PTH208 - hidden files too
    return folder
