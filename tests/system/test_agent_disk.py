# SPDX-License-Identifier: Apache-2.0
"""The agent and a disk: a file system where there is none, and never twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from foreign import extend_initrd
from guests import Inn

from innkeeper.agent.control import ControlClient
from innkeeper.errors import GuestError
from innkeeper.images.modules import select_modules
from innkeeper.images.package import find_package, unpack_package
from innkeeper.registry.layout import host_layout

NAME = "disk"
MKFS = b'#!/bin/sh\necho made >> /run/made\nexec mke2fs -F "$@"\n'
DEVICE = "/dev/vda"


def test_a_file_system_is_made_once(
    inn: Inn, tmp_path: Path, runtime_dir: Path, state_dir: Path
) -> None:
    package = find_package(host_layout().cache / "packages")
    if package is None:
        pytest.skip("the kernel's package is not here, from which ext4 would come")
    modules = select_modules(unpack_package(package).modules, ["ext4"])
    files = {f"fs/{number}.ko": (each.data, 0o644) for number, each in enumerate(modules)}
    initrd = extend_initrd(tmp_path / "initrd", files | {"sbin/mkfs.ext2": (MKFS, 0o755)})
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(8 << 20)
    drive = f"file={disk},format=raw,if=none,id=extra,file.locking=off"
    options = ("--qemu-arg=-drive", f"--qemu-arg={drive}", "--qemu-arg=-device")
    try:
        made = inn(
            "create", NAME, "--initrd", initrd, *options, "--qemu-arg=virtio-blk-device,drive=extra"
        )
        assert made.code == 0, made.error
        begun = inn("start", NAME)
        assert begun.code == 0, begun.error
        load = "modprobe virtio_blk; cd /fs; for f in $(ls | sort -n); do insmod $f; done"
        loaded = inn("exec", NAME, "sh", "-c", load)
        assert loaded.code == 0, loaded.error
        with ControlClient(runtime_dir / NAME / "agent.sock") as agent:
            with pytest.raises(GuestError, match="Invalid argument"):
                agent.mount(DEVICE, "/mnt/a", "ext2", create_target=True)
            agent.mount(DEVICE, "/mnt/a", "ext2", create_target=True, mkfs_if_needed=True)
            with pytest.raises(GuestError, match="resource busy"):
                agent.mount(DEVICE, "/mnt/a", "ext2", mkfs_if_needed=True)
            script = "echo kept > /mnt/a/file; umount /mnt/a"
            assert inn("exec", NAME, "sh", "-c", script).code == 0
            agent.mount(DEVICE, "/mnt/a", "ext2", mkfs_if_needed=True)
            assert inn("exec", NAME, "cat", "/mnt/a/file", "/run/made").stdout == b"kept\nmade\n"
            # What cannot be mounted and is not blank is left alone.
            with pytest.raises(GuestError, match="No such device"):
                agent.mount(DEVICE, "/mnt/b", "xfs", create_target=True, mkfs_if_needed=True)
            assert inn("exec", NAME, "cat", "/mnt/a/file").stdout == b"kept\n"
    finally:
        inn("rm", "-f", NAME)
