# SPDX-License-Identifier: Apache-2.0
"""The programs that make and repair the file systems of disks, in an initramfs.

They are the host's own, with their loader and libraries, in a folder of their own: a
guest may have no libraries, or others. A guest whose disks are mounted gives their
memory back (`crates/agent/src/disks/`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from innkeeper.images.source import Report
from innkeeper.images.store import Store
from innkeeper.model.disk import FsType
from innkeeper.model.image import Image
from innkeeper.system.process import require_program, run_tool

# Counts up with every change of what is made of the same inputs.
BUILDER_VERSION = 1

# As in `crates/agent/src/disks/tools.rs`.
_FOLDER = "usr/lib/innkeeper"
_LOADER = "ld.so"

_PROGRAMS: dict[FsType, tuple[str, ...]] = {
    "ext4": ("mke2fs", "e2fsck"),
    "btrfs": ("mkfs.btrfs",),
}
_PACKAGES: dict[FsType, str] = {"ext4": "e2fsprogs", "btrfs": "btrfs-progs"}

# A line of `ld.so --list`, ld.so(8).
_LIBRARY = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_LIST_TIMEOUT_S = 30.0


def add_disk_tools(
    image: Image, cache_dir: Path, fstypes: Iterable[FsType], *, report: Report
) -> Image:
    """The image with the programs for these file systems in its initramfs, from the cache.

    :param report: gets a line for each thing that takes time.
    :raise MissingProgram: one is not installed on this host.
    :raise OutOfSpace: the cache is full.
    """
    store = Store(cache_dir.absolute())
    programs = [_find(program, fstype) for fstype in fstypes for program in _PROGRAMS[fstype]]
    digests = [store.inputs.digest(program) for program in programs]
    words = ("disk tools", str(BUILDER_VERSION), image.digest, image.initrd, *digests)
    digest = hashlib.sha256("\n".join(words).encode()).hexdigest()

    def build(into: Path) -> Image:
        from innkeeper.system.files import write_new

        report(f"adding {', '.join(program.name for program in programs)} to {image.name}")
        initrd = Path(image.initrd).read_bytes() + tools_archive(programs)
        write_new(into / "initrd", initrd, 0o644)
        return msgspec.structs.replace(
            image, digest=digest, initrd="initrd", initrd_bytes=len(initrd)
        )

    made = store.find_or_build(f"disks-{image.name}", digest, build)
    store.inputs.save()
    return msgspec.structs.replace(image, initrd=made.initrd, initrd_bytes=made.initrd_bytes)


def tools_archive(programs: Iterable[Path], *, folder: str = _FOLDER) -> bytes:
    """An initramfs with these programs, their loader and their libraries.

    :param folder: where the guest has them.
    """
    from innkeeper.images.cpio import Archive

    archive = Archive()
    for program in programs:
        archive.file(f"{folder}/{program.name}", program.read_bytes(), 0o755)
        for library in libraries_of(program):
            is_loader = library.name.startswith("ld-linux")
            name = _LOADER if is_loader else library.name
            archive.file(f"{folder}/{name}", library.read_bytes(), 0o755)
    return archive.to_bytes()


def libraries_of(program: Path) -> list[Path]:
    """The libraries that a program of this host is loaded with, its loader among them."""
    told = run_tool([_loader(), "--list", str(program)], stage="image", timeout_s=_LIST_TIMEOUT_S)
    found = _LIBRARY.findall(told.stdout.decode("utf-8", "replace"))
    return [Path(path) for path in found]


def _loader() -> str:
    # By the ABI of x86-64 it is there on every host with shared libraries.
    return "/lib64/ld-linux-x86-64.so.2"


def _find(program: str, fstype: FsType) -> Path:
    path = require_program(
        program,
        stage="image",
        brief=f"{program} is not installed, with which a guest makes and repairs {fstype}",
        fix=f"apt-get install {_PACKAGES[fstype]}",
    )
    return Path(path)
