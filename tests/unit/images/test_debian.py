# SPDX-License-Identifier: Apache-2.0
"""From recipes to commands, by value; and what failures of mmdebstrap mean."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from innkeeper.errors import HostError, ImageError, InnError, OutOfSpace, UsageError
from innkeeper.images.build import apply_changes, build_debian
from innkeeper.images.build_failures import explain_failure
from innkeeper.images.debian import mmdebstrap_argv, plan_debian, recipe_digest
from innkeeper.images.phases import Phases
from innkeeper.images.roots import make_root
from innkeeper.model.recipe import Recipe
from innkeeper.system.watched import Failed


def test_the_command_by_value() -> None:
    recipe = Recipe(packages=("python3",), mirror="http://mirror/debian")
    argv = mmdebstrap_argv(recipe, plan_debian(recipe), hook=Path("/b/hook"), tree=Path("/b/t"))
    assert argv == [
        "mmdebstrap",
        "--mode=root",
        "--format=directory",
        "--variant=apt",
        "--architectures=amd64",
        "--dpkgopt=force-unsafe-io",
        "--components=main",
        "--include=kmod,iproute2,systemd-sysv,dbus,udev,libnss-systemd,python3",
        "--customize-hook=/b/hook",
        "bookworm",
        "/b/t",
        "http://mirror/debian",
    ]


def test_no_mirror_is_named_unless_the_recipe_does() -> None:
    recipe = Recipe()
    plan = plan_debian(recipe)
    argv = mmdebstrap_argv(recipe, plan, hook=Path("/hook"), tree=Path("/tree"))
    assert argv[-1] == "/tree"
    assert "://" not in plan.hook + " ".join(argv)


def test_a_small_debian_has_no_systemd() -> None:
    plan = plan_debian(Recipe(init="agent", kernels=("amd64", "cloud")))
    assert plan.packages == ("kmod", "iproute2")
    assert plan.init == "agent"
    assert plan.links == {}
    assert "for meta in linux-image-amd64 linux-image-cloud-amd64;" in plan.hook


def test_units_are_masked_and_files_written() -> None:
    plan = plan_debian(Recipe(mask=("cron.service",), files={"/etc/motd": "hello"}))
    assert plan.links["etc/systemd/system/cron.service"] == "/dev/null"
    assert plan.files["etc/motd"] == "hello"
    assert plan.files["etc/machine-id"] == ""
    assert plan.files["etc/.updated"] == "TIMESTAMP_NSEC=1686355200000000000\n"


def test_the_same_recipe_has_the_same_names() -> None:
    one, other = Recipe(packages=("a1", "b1")), Recipe(packages=("b1", "a1"))
    assert recipe_digest(one) == recipe_digest(Recipe(packages=("a1", "b1")))
    assert plan_debian(one).fs_uuid == plan_debian(Recipe(packages=("a1", "b1"))).fs_uuid
    assert plan_debian(one).fs_uuid != plan_debian(other).fs_uuid


def test_the_hook_is_a_shell_script() -> None:
    hook = plan_debian(Recipe()).hook
    subprocess.run(["sh", "-n"], input=hook.encode(), check=True)


@pytest.mark.parametrize(
    ("line", "kind", "told"),
    [
        ("E: Unable to locate package pyton3", UsageError, "no package pyton3"),
        ("E: Package 'foo' has no installation candidate", UsageError, "no package foo"),
        ("W: Failed to fetch x  Could not resolve 'mirror'", HostError, "cannot be reached"),
        ("E: The repository 'x' does not have a Release file.", ImageError, "the suite bookworm"),
        ("E: Failed to fetch x/InRelease  400  Bad Request", ImageError, "the suite bookworm"),
        ("W: GPG error: x: NO_PUBKEY 0123", HostError, "keys of Debian"),
        ("E: x InRelease  Clearsigned file isn't valid, got 'NOSPLIT'", HostError, "no Debian mir"),
        ("E: Failed to fetch x.deb  Undetermined Error [IP: x]", HostError, "broke off"),
        ("E: Failed to fetch x.deb  Hash Sum mismatch", HostError, "other files than its lists"),
        ("E: Failed to fetch x/InRelease  500  Internal Error", HostError, "does not give what"),
        ("dpkg: write failed (No space left on device)", OutOfSpace, "no space left"),
        ("E: something else", ImageError, "mmdebstrap failed"),
    ],
)
def test_what_a_failure_means(line: str, kind: type[InnError], told: str) -> None:
    error = explain_failure(("I: installing", line), Recipe())
    assert type(error) is kind
    assert told in error.brief
    assert line in error.evidence
    assert error.fix or kind is ImageError


def test_words_about_the_mirrors_keys_do_not_hide_what_it_answered() -> None:
    lines = (
        "W: Download is performed unsandboxed as root as file x",
        "Err:1 http://127.0.0.1/debian bookworm InRelease",
        "E: Failed to fetch http://127.0.0.1/debian/dists/bookworm/InRelease  400  Bad Request",
        "E: The repository 'http://127.0.0.1/debian bookworm InRelease' is not signed.",
        "E: apt-get update --error-on=any -oAPT::Status-Fd=<$fd> -oDpkg::Use-Pty=false failed",
        "E: mmdebstrap failed to run",
    )
    error = explain_failure(lines, Recipe())
    assert error.brief == "the mirror does not have the suite bookworm"
    assert error.evidence == lines[1:4]


def test_nothing_of_the_host_or_the_moment_stays(tmp_path: Path) -> None:
    for name in ("etc/hostname", "etc/machine-id", "var/log/dpkg.log", "boot/vmlinuz-1"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of this host")
    (tmp_path / "etc/resolv.conf").symlink_to("/run/resolv.conf")
    (tmp_path / "tmp" / "left").mkdir(parents=True)
    plan = plan_debian(Recipe(files={"/opt/start": "#!/bin/sh\n"}))
    apply_changes(tmp_path, plan)
    assert not (tmp_path / "etc/hostname").exists()
    assert (tmp_path / "etc/machine-id").read_bytes() == b""
    assert (tmp_path / "etc/resolv.conf").is_symlink() is False
    assert list((tmp_path / "tmp").iterdir()) == list((tmp_path / "boot").iterdir()) == []
    assert not (tmp_path / "var/log/dpkg.log").exists()
    assert (tmp_path / "opt/start").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "etc/.updated").stat().st_mtime == 1686355200
    assert (tmp_path / "etc/systemd/system/fstrim.timer").readlink() == Path("/dev/null")


def test_a_file_that_would_land_on_the_host_is_refused(tmp_path: Path) -> None:
    tree, host = tmp_path / "tree", tmp_path / "host"
    tree.mkdir()
    host.mkdir()
    (tree / "srv").symlink_to(host)
    with pytest.raises(ImageError, match="/srv/x leads out of the image"):
        apply_changes(tree, plan_debian(Recipe(files={"/srv/x": "x"})))
    assert list(host.iterdir()) == []


def test_a_disk_without_room_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=500 << 20))
    phases = Phases(lambda _line: pytest.fail("nothing may begin"))
    with pytest.raises(OutOfSpace, match="500M of free space; building an image takes 900M"):
        build_debian(tmp_path, "debian", Recipe(), phases=phases, force=False)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "<E> erofs: failed to write: No space left on device"
    failed = Failed("mkfs.erofs", 1, (line,), "root")
    monkeypatch.setattr("innkeeper.images.roots.run_watched", Mock(side_effect=failed))
    with pytest.raises(OutOfSpace) as failure:
        make_root("erofs", tmp_path, tmp_path / "out", fs_uuid="0", epoch=0)
    assert failure.value.evidence == (line,)
