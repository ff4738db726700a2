# SPDX-License-Identifier: Apache-2.0
"""Disks out of the store and into it, with regard to the guests that use them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from innkeeper.disks.exporting import check_target, export_archive
from innkeeper.disks.frames import DiskHead
from innkeeper.disks.moving import Moving, Tell, told
from innkeeper.disks.packing import DEFAULT_LEVEL
from innkeeper.disks.resizing import settled_disk
from innkeeper.disks.store import disk_path, hold_disk, measure_disk
from innkeeper.errors import NameInUse
from innkeeper.keeper.disk_resize import is_fixed
from innkeeper.keeper.still import hold_guests_still
from innkeeper.model.disk import IMAGE_FILE
from innkeeper.registry.layout import Layout
from innkeeper.system.building import building
from innkeeper.system.watched import run_watched


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What an export made.

    :ivar file: None for stdout.
    :ivar size_bytes: of the disk.
    :ivar content_digest: SHA-256 over the SHA-256s of the disk's MiBs, in hex.
    """

    disk: str
    file: str | None
    size_bytes: int
    archive_bytes: int
    archive_sha256: str
    content_digest: str


def export_disk(
    layout: Layout,
    name: str,
    target: Path | None,
    *,
    level: int = DEFAULT_LEVEL,
    force: bool = False,
    replace: bool = False,
    tell: Tell | None = None,
) -> Exported:
    """Write a disk as an archive, with its digest beside it.

    :param target: None for stdout, which gets no digest.
    :param force: also the disk of a running guest, which is held still for as long.
    :param replace: `target` may be there; it stays until the new one is whole.
    :param tell: gets told how far it is, on a thread of its own.
    :raise UnknownName: there is no such disk.
    :raise NameInUse: a guest writes to it, without `force`.
    :raise OutOfSpace: there is no room for the archive; nothing is left.
    """
    disk = settled_disk(layout.disks, name)
    check_target(target, replace=replace)
    moving = Moving("export")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold_disk(layout.disks, name, shared=True))
        except NameInUse as exc:
            if not force:
                raise NameInUse(
                    f"the disk {name!r} is in use",
                    stage="export",
                    fix="stop its guest first, or add --force, which holds the guest still meanwhile",
                ) from exc
            hold_guests_still(layout, name, stack)
        size = measure_disk(layout.disks, disk)
        fixed = is_fixed(layout, disk)
        path = disk_path(layout.disks, name)
        if disk.file_format == "qcow2":
            path = _as_raw(layout, path, stack)
        head = DiskHead(
            size_bytes=size.size_bytes,
            data_bytes=0,
            name=name,
            fstype=disk.fstype,
            fixed=fixed,
        )
        with told(moving, tell):
            written = export_archive(path, head, target, moving=moving, level=level)
    return Exported(
        disk=name,
        file=None if target is None else str(target),
        size_bytes=size.size_bytes,
        archive_bytes=written.archive_bytes,
        archive_sha256=written.archive_sha256,
        content_digest=written.content_digest,
    )


def _as_raw(layout: Layout, path: Path, stack: contextlib.ExitStack) -> Path:
    """The raw content of a qcow2, in a folder that is removed with the stack."""
    out = stack.enter_context(building(layout.disks, stage="export")) / IMAGE_FILE
    run_watched(
        ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", str(path), str(out)],
        stage="export",
        packages="qemu-utils",
    )
    return out
