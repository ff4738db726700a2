# SPDX-License-Identifier: Apache-2.0
"""A root in persistent memory: the file of a root as memory of the guest's machine. Pure.

The guest reads the host's page cache directly (virtio-pmem), which all guests of an
image share. QEMU opens the file for reading alone and maps it as ROM: what a guest
writes there goes nowhere. Only a machine with PCI and a place for memory devices has it.
"""

from __future__ import annotations

import msgspec

from innkeeper.errors import ImageError, UsageError
from innkeeper.model.image import ROOT_ALIGNMENT_BYTES, Image
from innkeeper.model.machine import Machine
from innkeeper.model.sizes import MIB, format_size

# What the guest's kernel calls the first such memory; there is never a second.
PMEM_PATH = "/dev/pmem0"

# q35 gives each memory device a place at a whole GiB.
_PLACE_BYTES = 1024 * MIB

# In load order; each brings what it needs.
PMEM_MODULES = ("virtio_pmem", "nd_pmem")

# Whose blocks the kernel maps into programs without a copy of its own (DAX).
_MAPPABLE = ("ext4", "erofs", "xfs")


class Pmem(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is memory of the guest.

    :ivar path: absolute; the file is only read.
    """

    path: str
    size_bytes: int


def plan_pmem(machine: Machine, image: Image) -> Pmem | None:
    """The root in persistent memory, where the machine wants it there.

    :raise UsageError: the image has no root, or not one of a fitting size.
    :raise ImageError: the image's kernel has no driver for it.
    """
    if machine.root_device != "pmem":
        return None
    root = image.root
    if root is None:
        raise UsageError(
            f"the image {image.name!r} has no root to put in persistent memory",
            stage="image",
            fix="leave out --root-device, or give an --image with a root (`inn image ls`)",
        )
    for driver in PMEM_MODULES:
        if driver in image.lacks:
            raise ImageError(
                f"kernel {image.kernel_release} has no driver {driver}, "
                "which --root-device pmem needs",
                stage="kernel",
                fix="take --root-device blk, or another of the image's kernels with --flavour",
            )
    if root.size_bytes % ROOT_ALIGNMENT_BYTES:
        raise UsageError(
            f"the root of the image {image.name!r} does not fill whole pieces of "
            f"{format_size(ROOT_ALIGNMENT_BYTES)}, as persistent memory has to",
            stage="image",
            evidence=(f"it has {root.size_bytes} bytes",),
            fix="make the image again with this version of inn, or take --root-device blk",
        )
    return Pmem(path=root.path, size_bytes=root.size_bytes)


def memory_size(memory_bytes: int, pmem: Pmem | None) -> str:
    """The value of `-m`: the guest's memory and, for a memory device, room above it."""
    size = f"{memory_bytes // MIB}M"
    if pmem is None:
        return size
    places = -(-pmem.size_bytes // _PLACE_BYTES) + 1
    return f"{size},maxmem={(memory_bytes + places * _PLACE_BYTES) // MIB}M"


def pmem_options(pmem: Pmem | None) -> tuple[str, ...]:
    """The `-object` of a file as memory."""
    if pmem is None:
        return ()
    path = pmem.path.replace(",", ",,")
    return (
        "-object",
        f"memory-backend-file,id=pmem,share=on,readonly=on,size={pmem.size_bytes},mem-path={path}",
    )


def pmem_root_words(fstype: str) -> tuple[str, ...]:
    """Where the agent finds the root, and how it mounts it; programs read the kernel's own word."""
    words = (f"inn.root=device:{PMEM_PATH}", f"root={PMEM_PATH}")
    return (*words, "inn.rootflags=dax") if fstype in _MAPPABLE else words
