# SPDX-License-Identifier: Apache-2.0
"""What a guest writes to its root, kept: a layer over the image's root, or a copy of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_images import run_image
from guests import Inn, record
from small_roots import make_tree

from innkeeper.registry.layout import host_layout

IMAGE = "kept-root"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of an image of ext4 whose PID 1 is the agent."""
    tree = make_tree(tmp_path_factory.mktemp("kept") / "tree")
    run_image("import", IMAGE, "--root", str(tree), "--kernel", "debian", "--root-format", "ext4")
    yield host_layout().images / IMAGE / "root.ext4"
    run_image("rm", IMAGE)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_and_restart(inn: Inn, name: str, path: str) -> None:
    """A file that a guest wrote is there in its next life, for machine `name`."""
    begun = inn("start", name)
    assert begun.code == 0, begun.error
    script = f"echo kept > {path}"
    assert inn("exec", name, "sh", "-c", script).code == 0
    # The hard way: what was written and synced is there all the same.
    assert inn("exec", name, "sync").code == 0
    assert inn("stop", "-t", "0", name).code == 0
    assert inn("start", name).code == 0
    assert inn("exec", name, "cat", path).stdout == b"kept\n"


def test_a_layer_is_kept_over_a_root_that_does_not_change(image: Path, inn: Inn) -> None:
    before = digest(image)
    try:
        assert inn("create", "own", "--image", IMAGE, "--root-overlay", "keep").code == 0
        write_and_restart(inn, "own", "/etc/file")
        [state] = record(inn, "own")["disks"]
        assert (state["name"], state["condition"]) == ("/", "GOOD")
        assert inn("stop", "own").code == 0
        # The same name, another image: its files and the layer's would not fit together.
        description = host_layout().machine("own").layer_description
        description.write_text('{"version":1,"over":"another"}')
        refused = inn("start", "own")
        assert refused.code == 125
        assert "the image changed since" in refused.error
        assert digest(image) == before
        folder = host_layout().machine("own").path
        assert (folder / "layer.img").stat().st_mode & 0o777 == 0o600
    finally:
        inn("rm", "-f", "own")
    assert not folder.exists()
    done = inn("run", "--image", IMAGE, "--root-overlay", "keep", "--", "true")
    assert done.code == 2
    assert "needs a machine that stays" in done.error


def test_a_copy_of_a_root_is_written_to_and_the_image_is_not(image: Path, inn: Inn) -> None:
    before = digest(image)
    try:
        assert inn("create", "own", "--image", IMAGE, "--root-overlay", "copy").code == 0
        write_and_restart(inn, "own", "/etc/file")
        mounts = inn("exec", "own", "grep", " / ext4 rw", "/proc/mounts")
        assert mounts.code == 0, mounts.stdout
        assert digest(host_layout().machine("own").own_root) != before
        assert digest(image) == before
    finally:
        inn("rm", "-f", "own")
    # Nowhere, where nothing else is said than "none".
    script = "touch /etc/no; grep ' / ' /proc/mounts"
    done = inn("run", "--image", IMAGE, "--root-overlay", "none", "--", "sh", "-c", script)
    assert "Read-only file system" in done.error
    assert b" / ext4 ro" in done.stdout
    assert digest(image) == before


@pytest.mark.slow
def test_systemd_finds_its_disks_and_its_layer(debian_image: str, inn: Inn) -> None:
    assert inn("disk", "create", "data", "--size", "160M", "--fs", "btrfs", "--sparse").code == 0
    try:
        options = ("--root-overlay", "keep", "--disk", "data:/srv/data")
        assert inn("create", "deb", "--image", debian_image, *options).code == 0
        for condition in ("MADE", "GOOD"):
            begun = inn("start", "deb")
            assert begun.code == 0, begun.error
            found = {disk["name"]: disk["condition"] for disk in record(inn, "deb")["disks"]}
            assert found == {"data": condition, "/": condition}
            script = "cat /root/file /srv/data/file; echo kept | tee /root/file > /srv/data/file"
            shown = inn("exec", "deb", "sh", "-c", f"{script}; systemctl is-system-running")
            assert shown.stdout.split()[-1] == b"running", shown.error
            assert shown.stdout.count(b"kept") == (2 if condition == "GOOD" else 0)
            assert inn("stop", "deb").code == 0
            assert record(inn, "deb")["rung"] == "agent"
    finally:
        inn("rm", "-f", "deb")
        inn("disk", "rm", "-f", "data")
