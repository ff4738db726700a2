# SPDX-License-Identifier: Apache-2.0
"""Roots on a disk and in persistent memory, and bundles of three files with their tools."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from debian_images import run_image
from guests import Inn
from small_roots import make_three, make_tree

from innkeeper.model.bundle import TOOLS_AT

LOOK = """
grep ' / ' /proc/mounts | grep -v rootfs
cat /proc/cmdline
cat /sys/block/pmem0/queue/dax
touch /new 2>/dev/null && echo written || echo refused
"""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", ["ext4", "erofs"])
def test_a_root_in_persistent_memory(kind: str, tmp_path: Path, state_dir: Path, inn: Inn) -> None:
    make_tree(tmp_path / "tree")
    run_image(
        *("import", kind, "--root", str(tmp_path / "tree"), "--root-format", kind),
        *("--kernel", "debian"),
    )
    root = state_dir / "images" / kind / f"root.{kind}"
    before = sha256(root)
    # Whatever the guest does to the memory itself goes nowhere.
    spoil = "dd if=/dev/zero of=/dev/pmem0 bs=1M count=1 conv=fsync 2>/dev/null; sync"
    memory = ("--image", kind, "--root-device", "pmem", "--root-overlay", "none")
    done = inn("run", *memory, "--", "sh", "-c", f"{LOOK}\necho 'end'; {spoil}")
    mount, cmdline, mapped, wrote, *rest = done.stdout.decode().splitlines()
    assert mount.startswith(f"/dev/pmem0 / {kind} ro,"), done.error
    # Its pages are read in place.
    assert "dax=always" in mount
    assert " root=/dev/pmem0 " in cmdline
    assert " ro " in cmdline
    assert (mapped, wrote, rest) == ("1", "refused", ["end"])
    assert sha256(root) == before
    run_image("rm", kind)


def test_three_files_make_a_guest_with_its_tools(tmp_path: Path, state_dir: Path, inn: Inn) -> None:
    three = make_three(tmp_path / "three", make_tree(tmp_path / "tree"))
    run_image("import", "three", "--root", str(three))
    assert f"tools.squashfs at {TOOLS_AT}" in run_image("inspect", "three")
    # The root has no libc at all; the program brings its loader and its libraries.
    loader = f"{TOOLS_AT}/lib/ld.so --library-path {TOOLS_AT}/lib"
    script = f"""{LOOK}
grep {TOOLS_AT} /proc/mounts
for disk in /sys/block/vd*; do cat $disk/serial; echo; done
touch {TOOLS_AT}/new 2>/dev/null || echo refused
{loader} {TOOLS_AT}/bin/env -i A=1
"""
    tools = [f"{TOOLS_AT} squashfs ro,nodev,relatime,errors=continue 0 0"]
    done = inn("run", "--image", "three", "--root-overlay", "none", "--", "sh", "-c", script)
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("/dev/vda / ext4 ro,"), done.error
    assert [line.partition(" ")[2] for line in lines if " squashfs " in line] == tools
    assert lines[-4:] == ["inn-root", "inn-tools", "refused", "A=1"]
    # The same with the root in memory: the tools are found by serial, not by number.
    layout = ("--root-device", "pmem", "--root-overlay", "temp")
    done = inn("run", "--image", "three", *layout, "--", "sh", "-c", script)
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("overlay / overlay rw,"), done.error
    assert [line.partition(" ")[2] for line in lines if " squashfs " in line] == tools
    assert "written" in lines
    assert lines[-3:] == ["inn-tools", "refused", "A=1"]


def test_a_file_of_the_three_is_missing(tmp_path: Path, inn: Inn) -> None:
    (tmp_path / "vm_kernel").write_bytes(b"")
    (tmp_path / "vm_rootfs.img").write_bytes(b"")
    done = inn("image", "import", "none", "--root", str(tmp_path))
    assert done.code == 125
    assert f"{tmp_path} has no vm_tools.img" in done.error
    assert "an image of three files needs vm_kernel, vm_rootfs.img, vm_tools.img" in done.error
