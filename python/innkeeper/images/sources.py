# SPDX-License-Identifier: Apache-2.0
"""What a root file system can be imported from, told by its first bytes; partitions and qcow2."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from innkeeper.errors import ImageError
from innkeeper.images.compression import compression_of
from innkeeper.images.roots import read_head, root_type_of
from innkeeper.model.bundle import RootType
from innkeeper.system.files import naming_errors
from innkeeper.system.process import run_tool
from innkeeper.system.sparse import copy_sparse
from innkeeper.system.watched import run_watched

Kind = Literal["folder", "three files", "tar", "qcow2", "disk", "file system"]

# Names of the three files: a kernel, a root and a read-only tools file system.
KERNEL_FILE, ROOT_FILE, TOOLS_FILE = "vm_kernel", "vm_rootfs.img", "vm_tools.img"
THREE_FILES = (KERNEL_FILE, ROOT_FILE, TOOLS_FILE)

_SECTOR = 512
_PARTITIONS_MAXIMUM = 256
_QEMU_IMG_TIMEOUT_S = 60.0


class _QcowInfo(msgspec.Struct, rename="kebab"):
    """What `qemu-img info --output=json` says."""

    virtual_size: int
    backing_filename: str | None = None
    format_specific: dict[str, object] = {}


def kind_of(path: Path) -> Kind:
    """What a path is.

    :raise ImageError: it is nothing that an image can be made of; its first bytes are told.
    """
    if path.is_dir():
        return "three files" if any((path / name).exists() for name in THREE_FILES) else "folder"
    if not path.is_file():
        raise ImageError(f"there is no file or folder {path}", stage="import")
    head = read_head(path)
    if root_type_of(head) is not None:
        return "file system"
    if head.startswith(b"QFI\xfb"):
        return "qcow2"
    if head[_SECTOR : _SECTOR + 8] == b"EFI PART" or (
        head[510:512] == b"\x55\xaa" and head[450:451] not in (b"", b"\0")
    ):
        return "disk"
    if head[257:262] == b"ustar" or compression_of(head) is not None:
        return "tar"
    raise ImageError(
        f"{path} is no file system, disk or archive that an image can be made of",
        stage="import",
        evidence=(f"it begins with {head[:8].hex(' ') or 'nothing'}",),
        fix="give a folder, a tar, a qcow2, or a raw file system (ext4, erofs, squashfs, btrfs)",
    )


def check_three(folder: Path) -> None:
    """See that a folder has all of the three files.

    :raise ImageError: one is missing; it is named.
    """
    missing = [name for name in THREE_FILES if not (folder / name).is_file()]
    if missing:
        raise ImageError(
            f"{folder} has no {' and no '.join(missing)}",
            stage="import",
            fix=f"an image of three files needs {', '.join(THREE_FILES)}",
        )


def convert_qcow2(path: Path, out: Path) -> None:
    """The raw content of a qcow2 disk.

    :raise ImageError: it is damaged, or made of other files too, which would be read as well.
    """
    told = run_tool(
        ["qemu-img", "info", "-f", "qcow2", "--output=json", str(path)],
        stage="import",
        timeout_s=_QEMU_IMG_TIMEOUT_S,
    )
    info = msgspec.json.decode(told.stdout, type=_QcowInfo)
    data = info.format_specific.get("data")
    outside = isinstance(data, dict) and data.get("data-file") is not None
    if info.backing_filename is not None or outside:
        raise ImageError(
            f"{path} is not complete in itself",
            stage="import",
            evidence=(f"it rests on {info.backing_filename or 'a data file'}",),
            fix="`qemu-img convert -O qcow2` makes one file of both",
        )
    run_watched(
        ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(path), str(out)],
        stage="import",
        packages="qemu-utils",
    )


@dataclass(frozen=True)
class Partition:
    """A part of a disk, in bytes."""

    offset: int
    size_bytes: int


def partitions_of(head: bytes, table: bytes) -> list[Partition]:
    """The partitions of a disk. Pure; GPT as in UEFI 2.10, 5.3, else the classic table.

    :param head: the disk's first two sectors.
    :param table: what follows them: the entries of a GPT.
    """
    found = []
    if head[_SECTOR : _SECTOR + 8] == b"EFI PART":
        count, size = struct.unpack_from("<II", head, _SECTOR + 80)
        if size < 128:
            return []
        for at in range(0, min(count, _PARTITIONS_MAXIMUM) * size, size):
            entry = table[at : at + 48]
            if len(entry) == 48 and any(entry[:16]):
                first, last = struct.unpack_from("<QQ", entry, 32)
                if last >= first:
                    found.append(Partition(first * _SECTOR, (last - first + 1) * _SECTOR))
        return found
    for index in range(4):
        entry = head[446 + 16 * index : 462 + 16 * index]
        first, sectors = struct.unpack_from("<II", entry, 8)
        if entry[4] not in (0, 0xEE) and sectors:
            found.append(Partition(first * _SECTOR, sectors * _SECTOR))
    return found


def take_partition(disk: Path, out: Path) -> RootType:
    """Copy the largest partition with a file system that a root may have.

    :raise ImageError: there is none.
    """
    with naming_errors(disk, doing="read", stage="import"), disk.open("rb") as file:
        head = file.read(2 * _SECTOR)
        # An entry array may be elsewhere; every tool puts it here.
        table = file.read(_PARTITIONS_MAXIMUM * 128)
        end = file.seek(0, os.SEEK_END)
        best: tuple[Partition, RootType] | None = None
        for part in sorted(partitions_of(head, table), key=lambda part: -part.size_bytes):
            if part.offset + part.size_bytes <= end:
                file.seek(part.offset)
                kind = root_type_of(file.read(0x10048))
                if kind is not None:
                    best = part, kind
                    break
    if best is None:
        raise ImageError(
            f"no partition of {disk.name} has a file system that a root may have",
            stage="import",
            fix="give the root's file system by itself",
        )
    copy_sparse(disk, out, offset=best[0].offset, size_bytes=best[0].size_bytes)
    return best[1]
