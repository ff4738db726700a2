# SPDX-License-Identifier: Apache-2.0
"""`inn image build` with a stand-in for mmdebstrap: killed, interrupted, refused, repeated."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from stand_ins import Builder

from innkeeper.images.bundles import bundle_names, verify_bundle

Wait = Callable[[Callable[[], bool]], None]


def test_a_build_its_repetition_and_another(builder: Builder) -> None:
    code, out, err = builder.run("build", "debian", "--timings", "--format", "json")
    assert code == 0, err
    first = json.loads(out)
    assert first["new"] is True
    assert first["image"]["kernels"][0]["release"] == "6.1.0-99-cloud-amd64"
    assert (builder.images / "debian/packages.txt").read_text() == "dash 1.2\n"
    for phase in ("packages", "kernels", "root", "store", "total"):
        assert f"  {phase}" in err
    code, out, err = builder.run("build", "debian", "--format", "json")
    again = json.loads(out)
    assert code == 0, out
    assert (code, again["new"], again["image"]["digest"]) == (0, False, first["image"]["digest"])
    code, _, err = builder.run("build", "debian", "--root-format", "squashfs")
    assert code == 125, "a kernel without squashfs"
    assert "no driver squashfs" in err
    code, _, err = builder.run("build", "debian", "--init", "agent")
    assert code == 2
    assert "--force" in err
    assert builder.run("build", "debian", "--init", "agent", "--force")[0] == 0
    assert verify_bundle(builder.images, "debian") == []
    assert builder.left() == []


@pytest.mark.parametrize("stage", ["packages", "tree", "root"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_ends_early_leaves_nothing(
    builder: Builder, tmp_path: Path, eventually: Wait, stage: str, number: signal.Signals
) -> None:
    mark = tmp_path / "mark"
    hang = f"echo > {mark}; sleep 100 & wait"
    if stage == "root":
        builder.program("mkfs.erofs", f"#!/bin/sh\n{hang}\n")
    else:
        builder.mmdebstrap(**{"before" if stage == "packages" else "after": hang})
    with builder.start("build", "debian") as process:
        eventually(mark.exists)
        process.send_signal(number)
        process.wait(20)
    assert bundle_names(builder.images) == ()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert builder.left() == []
    # What a SIGKILL left, the next build sweeps; the leak guard looks for processes.
    shutil.rmtree(builder.programs)
    builder.programs.mkdir()
    builder.mmdebstrap()
    code, _, err = builder.run("build", "debian")
    assert code == 0, err
    assert builder.left() == []
    assert bundle_names(builder.images) == ("debian",)


def test_a_kill_at_any_moment_leaves_a_whole_image_or_none(builder: Builder) -> None:
    with builder.start("build", "debian") as process:
        since = time.monotonic()
        process.wait(50)
        whole_s = time.monotonic() - since
    steps = 8
    for step in range(steps):
        with builder.start("build", "debian", "--init", "agent", "--force") as process:
            # Spread over what a build takes; where exactly does not matter.
            time.sleep(whole_s * (0.3 + 0.9 * step / steps))
            process.kill()
        assert bundle_names(builder.images) == ("debian",)
        assert verify_bundle(builder.images, "debian") == []
    assert builder.run("gc")[0] == 0
    assert builder.left() == []


def test_two_builds_of_one_name(builder: Builder, tmp_path: Path, eventually: Wait) -> None:
    go = tmp_path / "go"
    builder.mmdebstrap(before=f"while ! [ -e {go} ]; do sleep 0.05; done")
    with builder.start("build", "debian") as one, builder.start("build", "debian") as other:
        eventually(lambda: len(list(builder.images.glob(".build-*/tmp"))) == 2)
        go.touch()
        told = [process.communicate(timeout=50) for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), told
    # Both made the same; it is new to one of them, whichever was first.
    assert sorted(b"(unchanged)" in out for out, _ in told) == [False, True]
    assert verify_bundle(builder.images, "debian") == []
    assert builder.left() == []


def test_a_flipped_byte_is_told_by_file_name(builder: Builder) -> None:
    assert builder.run("build", "debian")[0] == 0
    root = builder.images / "debian/root.erofs"
    data = bytearray(root.read_bytes())
    data[5000] ^= 1
    root.chmod(0o644)
    root.write_bytes(data)
    code, out, err = builder.run("verify")
    assert (code, out) == (125, "debian: damaged\n")
    assert f"the file {root} is damaged" in err
    code, out, _ = builder.run("verify", "debian", "--format", "json")
    assert json.loads(out)["images"][0]["state"] == "damaged"


def test_what_reads_and_removes(builder: Builder) -> None:
    assert builder.run("ls")[1].splitlines()[1:] == []
    assert builder.run("build", "debian", "--name", "mine")[0] == 0
    assert builder.run("ls", "--quiet")[1] == "mine\n"
    row = json.loads(builder.run("ls", "--format", "json")[1])["images"][0]
    assert (row["name"], row["state"], row["root_type"]) == ("mine", "good", "erofs")
    assert "suite        bookworm" in builder.run("inspect", "mine")[1]
    machine = Path(builder.env["INN_STATE_DIR"]) / "machines/web"
    machine.mkdir(parents=True)
    (machine / "machine.json").write_text('{"name": "web", "image": "mine"}')
    code, _, err = builder.run("rm", "mine")
    assert code == 125
    assert "used by the machine web" in err
    shutil.rmtree(machine)
    assert builder.run("rm", "mine")[0] == 0
    code, _, err = builder.run("inspect", "mine")
    assert (code, "unknown image 'mine'" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--suite", "bookwurm"), "did you mean 'bookworm'"),
        (("--kernel-flavour", "clowd"), "did you mean 'cloud'"),
        (("--name", "tiny"), "taken by innkeeper itself"),
        (("--package", "-o"), "not the name of a Debian package"),
    ],
)
def test_nonsense_is_refused_before_anything_is_done(
    builder: Builder, arguments: tuple[str, ...], told: str
) -> None:
    code, _, err = builder.run("build", "debian", *arguments)
    assert code == 2
    assert told in err
    assert not builder.images.exists()


def test_a_missing_mmdebstrap_is_named(builder: Builder) -> None:
    builder.env["PATH"] = str(builder.programs)
    (builder.programs / "mmdebstrap").unlink()
    if Path("/usr/sbin/mmdebstrap").exists():
        pytest.skip("mmdebstrap is in a folder that is always searched")
    code, _, err = builder.run("build", "debian")
    assert code == 125
    assert "apt-get install mmdebstrap" in err


def test_a_recipe_file_with_a_wrong_key(builder: Builder, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('package = ["bash"]\n')
    code, _, err = builder.run("build", "debian", "--file", str(recipe))
    assert code == 2
    assert "did you mean 'packages'" in err
