# SPDX-License-Identifier: Apache-2.0
"""An image: a kernel and an initramfs, and what is known about them."""

from __future__ import annotations

import msgspec

from innkeeper.model.sizes import MIB

# A kernel maps persistent memory by sections of this size (memremap_compat_align), and
# refuses what does not fill the last one. Roots are made as long.
ROOT_ALIGNMENT_BYTES = 2 * MIB


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """A root file system beside the initramfs.

    :ivar path: absolute, of the file system's image.
    :ivar init: "agent", or the program of the root that becomes PID 1.
    :ivar bundle: digest of the bundle that it belongs to.
    """

    path: str
    fstype: str
    size_bytes: int = 0
    init: str = "agent"
    bundle: str = ""


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """A second file system, read-only.

    :ivar path: absolute, of the file system's image.
    :ivar mount_point: where the guest finds it.
    """

    path: str
    fstype: str
    mount_point: str


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest boots from. All paths are absolute, and the files are read-only.

    :ivar digest: SHA-256 of everything the image was made from, in hex.
    :ivar kernel: the file for QEMU's `-kernel`: an ELF kernel where it could be had,
        because it starts without decompressing itself, else the same as `kernel_source`.
    :ivar kernel_source: the bzImage (or ELF) as its maker shipped it.
    :ivar kernel_release: what `uname -r` will say.
    :ivar agent: the image's /init is our agent.
    :ivar root: what the guest's `/` is; None leaves it in the initramfs.
    :ivar modules: names of the modules in the initramfs. A driver that is built into the
        kernel is not among them.
    :ivar lacks: drivers that the kernel has neither as a module nor built in, of those
        that are asked for; () also where nobody can tell.
    :ivar tools: what else the image brings.
    """

    name: str
    digest: str
    kernel: str
    kernel_source: str
    initrd: str
    kernel_release: str
    agent: bool
    modules: tuple[str, ...]
    initrd_bytes: int
    kernel_bytes: int
    root: Root | None = None
    lacks: tuple[str, ...] = ()
    tools: Tools | None = None
