# SPDX-License-Identifier: Apache-2.0
"""Small roots for images: busybox, and the three files that a bundle is imported from."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from innkeeper.images.modules import modules_dep, select_modules
from innkeeper.images.package import find_package, unpack_package
from innkeeper.images.roots import make_root
from innkeeper.images.tiny import BUSYBOX
from innkeeper.model.bundle import TOOLS_AT
from innkeeper.registry.layout import plan_layout

FS_UUID = "12345678-1234-5678-9abc-123456789abc"
DRIVERS = (
    *("virtio_mmio", "virtio_pci", "vmw_vsock_virtio_transport", "virtio_balloon", "virtio_blk"),
    *("virtio_pmem", "nd_pmem", "erofs", "squashfs", "ext4", "overlay"),
)


def make_tree(folder: Path) -> Path:
    """A root whose only program is busybox, without any libc; PID 1 will be the agent."""
    for name in ("bin", "dev", "etc", "proc", "run", "sys", "tmp", TOOLS_AT.lstrip("/")):
        (folder / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "bin/busybox")
    for applet in ("cat", "dd", "grep", "ls", "sh", "sync", "touch"):
        (folder / "bin" / applet).symlink_to("busybox")
    (folder / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    return folder


def make_three(folder: Path, tree: Path) -> Path:
    """A folder with `vm_kernel`, `vm_rootfs.img` and `vm_tools.img`.

    The root has the kernel's modules; the tools have a program of this host with its
    loader and its libraries.
    """
    cache = plan_layout(os.environ, os.geteuid()).cache
    package = find_package(cache / "packages")
    assert package is not None, "`make setup` fetches it"
    content = unpack_package(package)
    folder.mkdir()
    (folder / "vm_kernel").write_bytes(content.vmlinuz)
    modules = select_modules(content.modules, DRIVERS)
    below = tree / "lib/modules" / content.release
    for module in modules:
        path = below / module.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(module.data)
    (below / "modules.dep").write_bytes(modules_dep(modules))
    builtin = "".join(f"kernel/{name}.ko\n" for name in sorted(content.modules.builtin))
    (below / "modules.builtin").write_text(builtin)
    make_root("ext4", tree, folder / "vm_rootfs.img", fs_uuid=FS_UUID, epoch=1)
    tools = folder.parent / "tools"
    fill_tools(tools)
    make_root("squashfs", tools, folder / "vm_tools.img", fs_uuid=FS_UUID, epoch=1)
    return folder


def fill_tools(tools: Path) -> None:
    """`bin/env` of this host, and in `lib` all that it is linked with, the loader as ld.so."""
    program = shutil.which("env")
    assert program is not None
    linked = subprocess.run(["ldd", program], capture_output=True, check=True, text=True).stdout
    for name in ("bin", "lib"):
        (tools / name).mkdir(parents=True)
    shutil.copy(program, tools / "bin/env")
    for library in re.findall(r"(/\S+) \(0x", linked):
        name = "ld.so" if "/ld-linux" in library else Path(library).name
        shutil.copy(library, tools / "lib" / name)
