# SPDX-License-Identifier: Apache-2.0
"""The agent mounts 9P from a port of the host, unmounts, and resizes what is mounted."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from foreign import extend_initrd
from full_kernel import MODULES, provide_full_kernel
from guests import Inn

from innkeeper.agent.control import ControlClient
from innkeeper.errors import CallFailed
from innkeeper.images.modules import folder_tree, select_modules
from innkeeper.model.share import parse_share
from innkeeper.shares.plan import Choice, plan_server
from innkeeper.shares.serve import start_server
from innkeeper.shares.servers import ninep_facts
from innkeeper.shares.users import host_ids, plan_users

NAME = "mounts"
PORT = 20000
MIB = 1 << 20
DISKS = {
    "vda": (128 * MIB, ("mke2fs", "-q", "-F", "-t", "ext4"), ("32M",)),
    "vdb": (640 * MIB, ("mkfs.btrfs", "-q", "-b", "400M"), ()),
}


@pytest.fixture
def agent(inn: Inn, tmp_path: Path, runtime_dir: Path) -> Iterator[ControlClient]:
    """The agent of a guest with two disks, each with a file system smaller than it."""
    kernel = provide_full_kernel()
    release = kernel.name.removeprefix("vmlinuz-")
    tree = folder_tree(kernel.parent.parent / "lib" / "modules" / release, release)
    modules = select_modules(tree, MODULES)
    files = {f"fs/{number:02}.ko": (each.data, 0o644) for number, each in enumerate(modules)}
    initrd = extend_initrd(tmp_path / "initrd", files, kernel=kernel)
    options = ["--kernel", str(kernel), "--initrd", initrd]
    for name, (size, make, tail) in DISKS.items():
        disk = tmp_path / name
        with disk.open("wb") as file:
            file.truncate(size)
        subprocess.run([*make, str(disk), *tail], check=True, capture_output=True)
        drive = f"file={disk},format=raw,if=none,id={name},file.locking=off"
        options += ["--qemu-arg=-drive", f"--qemu-arg={drive}"]
        options += ["--qemu-arg=-device", f"--qemu-arg=virtio-blk-device,drive={name}"]
    try:
        made = inn("create", NAME, *options)
        assert made.code == 0, made.error
        begun = inn("start", NAME)
        assert begun.code == 0, begun.error
        load = "cd /fs; for f in *; do insmod $f 2>/dev/null; done; ls /dev/vda /dev/vdb"
        loaded = inn("exec", NAME, "sh", "-c", load)
        assert loaded.code == 0, loaded.error
        with ControlClient(runtime_dir / NAME / "agent.sock") as client:
            yield client
    finally:
        inn("rm", "-f", NAME)


def number_of(call: Callable[[], object]) -> int:
    """The errno with which a call fails."""
    with pytest.raises(CallFailed) as failed:
        call()
    return failed.value.number


def test_mounts_by_call(agent: ControlClient, inn: Inn, tmp_path: Path, runtime_dir: Path) -> None:
    grow_and_shrink(agent)
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("from the host\n")
    share = parse_share(f"{shared}:/x")
    choice = Choice(transport="9p", server=ninep_facts(), reason="")
    root = tmp_path / "served"
    plan = plan_server(
        choice, (share,), root=str(root), cache="never", users=plan_users((share,), host_ids())
    )
    assert number_of(lambda: agent.mount_9p(PORT, "/mnt/9p")) == errno.ECONNRESET
    server = start_server(plan, runtime_dir / NAME / f"vsock.sock_{PORT}")
    try:
        agent.mount_9p(PORT, "/mnt/9p/deep", read_only=True)
        path = f"/mnt/9p/deep/{share.key}"
        told = inn("exec", NAME, "sh", "-c", f"cat {path}/file; touch {path}/new 2>&1")
        assert told.stdout.splitlines()[0] == b"from the host"
        assert b"Read-only file system" in told.stdout
        inn("exec", NAME, "sh", "-c", f"sleep 100 < {path}/file > /dev/null 2>&1 &")
        assert number_of(lambda: agent.unmount("/mnt/9p/deep")) == errno.EBUSY
        agent.unmount("/mnt/9p/deep", lazy=True)
        # What was made for the mount went with it.
        assert inn("exec", NAME, "ls", "/mnt/9p").code != 0
        assert number_of(lambda: agent.unmount("/mnt/9p/deep")) == errno.ENOENT
    finally:
        server.end()


def grow_and_shrink(agent: ControlClient) -> None:
    agent.mount("/dev/vda", "/mnt/ext4", "ext4", create_target=True)
    assert agent.resize_filesystem("/mnt/ext4", size_bytes=64 * MIB) == 64 * MIB
    assert agent.resize_filesystem("/mnt/ext4") == 128 * MIB
    shrink = number_of(lambda: agent.resize_filesystem("/mnt/ext4", size_bytes=32 * MIB))
    assert shrink == errno.EOPNOTSUPP
    beyond = number_of(lambda: agent.resize_filesystem("/mnt/ext4", size_bytes=256 * MIB))
    assert beyond == errno.ENOSPC
    agent.unmount("/mnt/ext4")
    agent.mount("/dev/vdb", "/mnt/btrfs", "btrfs", create_target=True)
    assert agent.resize_filesystem("/mnt/btrfs") == 640 * MIB
    assert agent.resize_filesystem("/mnt/btrfs", size_bytes=300 * MIB) == 300 * MIB
    small = number_of(lambda: agent.resize_filesystem("/mnt/btrfs", size_bytes=MIB))
    assert small == errno.EINVAL
    beyond = number_of(lambda: agent.resize_filesystem("/mnt/btrfs", size_bytes=700 * MIB))
    assert beyond == errno.EFBIG
    agent.unmount("/mnt/btrfs")
    assert number_of(lambda: agent.resize_filesystem("/proc")) == errno.EOPNOTSUPP
