# SPDX-License-Identifier: Apache-2.0
"""The initramfs of a guest that works on a disk: the tiny one, with programs of this host."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from innkeeper.images.disk_tools import tools_archive
from innkeeper.images.source import Report
from innkeeper.images.store import Store
from innkeeper.images.tiny import prepare_tiny
from innkeeper.model.disk import FsType
from innkeeper.model.image import Image
from innkeeper.system.process import require_program

# Counts up with every change of what is made of the same inputs.
BUILDER_VERSION = 1

# Where the guest has the programs, with their loader `ld.so` and libraries.
FOLDER = "usr/lib/innkeeper-work"

_PROGRAMS: dict[FsType, tuple[str, ...]] = {
    "ext4": ("e2fsck", "resize2fs"),
    "btrfs": ("btrfs",),
}
_PACKAGES: dict[FsType, str] = {"ext4": "e2fsprogs", "btrfs": "btrfs-progs"}


def prepare_worker(cache_dir: Path, fstype: FsType, *, report: Report) -> Path:
    """An initramfs with what resizes file systems of a type, from the cache.

    :raise MissingProgram: a program is not installed on this host.
    :raise OutOfSpace: the cache is full.
    """
    tiny = prepare_tiny(cache_dir, report=report, drivers=(fstype,))
    store = Store(cache_dir.absolute())
    programs = [_find(program, fstype) for program in _PROGRAMS[fstype]]
    digests = [store.inputs.digest(program) for program in programs]
    words = ("worker", str(BUILDER_VERSION), tiny.digest, *digests)
    digest = hashlib.sha256("\n".join(words).encode()).hexdigest()

    def build(into: Path) -> Image:
        from innkeeper.system.files import write_new

        initrd = Path(tiny.initrd).read_bytes() + tools_archive(programs, folder=FOLDER)
        write_new(into / "initrd", initrd, 0o644)
        return msgspec.structs.replace(
            tiny, digest=digest, initrd="initrd", initrd_bytes=len(initrd)
        )

    made = store.find_or_build(f"worker-{fstype}", digest, build)
    store.inputs.save()
    return Path(made.initrd)


def _find(program: str, fstype: FsType) -> Path:
    path = require_program(
        program,
        stage="image",
        brief=f"{program} is not installed, with which a guest resizes {fstype}",
        fix=f"apt-get install {_PACKAGES[fstype]}",
    )
    return Path(path)
