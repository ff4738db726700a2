# SPDX-License-Identifier: Apache-2.0
"""Root file systems: making one from a folder, telling one by its first bytes."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from innkeeper.errors import ImageError, OutOfSpace
from innkeeper.images.mapped import as_root, root_environment
from innkeeper.model.bundle import RootType
from innkeeper.model.image import ROOT_ALIGNMENT_BYTES
from innkeeper.model.recipe import RootFormat
from innkeeper.system.files import naming_errors
from innkeeper.system.watched import Failed, run_watched

# Offset and bytes of a file system's magic number: erofs_fs.h, squashfs_fs.h, ext4.h,
# btrfs_tree.h, xfs_format.h of the kernel.
_MAGICS: tuple[tuple[int, bytes, RootType], ...] = (
    (1024, b"\xe2\xe1\xf5\xe0", "erofs"),
    (0, b"hsqs", "squashfs"),
    (1024 + 56, b"\x53\xef", "ext4"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (0, b"XFSB", "xfs"),
)
_HEAD_BYTES = 0x10048

_EXT4_BLOCK = 4096
# For what ext4 needs beside the files; the image is sparse, and read-only in a guest.
_EXT4_SLACK_BYTES = 32 << 20
# No journal: nobody writes. No checksums: they would have to be made anew with the times.
_EXT4_FEATURES = "^has_journal,^metadata_csum,^resize_inode,^orphan_file,^metadata_csum_seed"

_PACKAGES = {
    "mkfs.erofs": "erofs-utils",
    "mksquashfs": "squashfs-tools",
    "mke2fs": "e2fsprogs",
}


def root_type_of(head: bytes) -> RootType | None:
    """The file system that begins with these bytes (at least 64 KiB of it), or None. Pure."""
    for offset, magic, name in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return name
    return None


def read_head(path: Path) -> bytes:
    """The bytes of a file that :func:`root_type_of` looks at.

    :raise HostError: it cannot be read.
    """
    with naming_errors(path, doing="read", stage="image"), path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def make_argv(
    kind: RootFormat, tree: Path, out: Path, *, fs_uuid: str, size_bytes: int
) -> list[str]:
    """The command that makes a file system of a folder's content. Pure.

    :param fs_uuid: of the file system.
    :param size_bytes: of the file system, for ext4.
    """
    if kind == "erofs":
        return ["mkfs.erofs", "--quiet", "-d1", f"-U{fs_uuid}", str(out), str(tree)]
    if kind == "squashfs":
        quiet = ("-quiet", "-no-progress", "-noappend", "-processors", "2")
        return ["mksquashfs", str(tree), str(out), "-comp", "zstd", *quiet]
    return [
        *("mke2fs", "-q", "-F", "-t", "ext4", "-b", str(_EXT4_BLOCK), "-m", "0"),
        *("-O", _EXT4_FEATURES, "-U", fs_uuid),
        *("-E", f"hash_seed={fs_uuid},root_owner=0:0,lazy_itable_init=0,nodiscard"),
        *("-d", str(tree), str(out), str(size_bytes // _EXT4_BLOCK)),
    ]


def make_root(kind: RootFormat, tree: Path, out: Path, *, fs_uuid: str, epoch: int) -> None:
    """Make a file system of a folder's content; the same bytes for the same content.

    :param epoch: no time in it is later, in seconds since 1970.
    :raise MissingProgram: the program for this file system is not installed.
    :raise OutOfSpace: the disk is full.
    :raise ImageError: it could not be made; `out` may be there in part.
    """
    size = _ext4_size(tree) if kind == "ext4" else 0
    argv = make_argv(kind, tree, out, fs_uuid=fs_uuid, size_bytes=size)
    env = root_environment() | {"SOURCE_DATE_EPOCH": str(epoch), "E2FSPROGS_FAKE_TIME": str(epoch)}
    try:
        run_watched(as_root(argv), stage="root", env=env, packages=_PACKAGES[argv[0]])
    except Failed as exc:
        text = "\n".join(exc.lines)
        if "not found" in text and f"failed to execute {argv[0]}" in text:
            raise _not_installed(argv[0]) from exc
        if "No space left" in text or "ENOSPC" in text:
            raise OutOfSpace(
                f"no space left to write {out}", stage="root", evidence=exc.evidence
            ) from exc
        raise ImageError(
            f"cannot make the {kind} root", stage="root", evidence=(exc.brief, *exc.evidence)
        ) from exc
    if kind == "ext4":
        _settle_ext4(out, epoch)


def fill_up(path: Path) -> None:
    """Lengthen a file system's file by zeros, so that it can be a guest's persistent memory."""
    with naming_errors(path, doing="write", stage="root"):
        os.truncate(path, -(-path.stat().st_size // ROOT_ALIGNMENT_BYTES) * ROOT_ALIGNMENT_BYTES)


def _not_installed(program: str) -> ImageError:
    return ImageError(
        f"{program} is not installed",
        stage="root",
        fix=f"apt-get install {_PACKAGES.get(program, program)}",
    )


def _ext4_size(tree: Path) -> int:
    """Enough for the files, each in whole blocks with an inode of its own."""
    total = 0
    seen = set()
    with naming_errors(tree, doing="read", stage="root"):
        for path in (tree, *tree.rglob("*")):
            info = path.lstat()
            if info.st_ino not in seen:
                seen.add(info.st_ino)
                total += -(-info.st_size // _EXT4_BLOCK) * _EXT4_BLOCK + 2 * _EXT4_BLOCK
    size = total + total // 10 + _EXT4_SLACK_BYTES
    return -(-size // (1 << 20)) << 20


def _settle_ext4(path: Path, epoch: int) -> None:
    """Give every inode times not after the epoch: mke2fs copies when the files came to be.

    The layout is in the kernel's Documentation/filesystems/ext4. Nothing has a checksum.
    """
    with naming_errors(path, doing="write", stage="root"), path.open("r+b") as file:
        file.seek(1024)
        block = file.read(1024)
        (inodes, _blocks) = struct.unpack_from("<II", block, 0)
        (per_group,) = struct.unpack_from("<I", block, 40)
        (inode_bytes,) = struct.unpack_from("<H", block, 88)
        (incompatible,) = struct.unpack_from("<I", block, 96)
        wide = bool(incompatible & 0x80)
        descriptor_bytes = struct.unpack_from("<H", block, 254)[0] if wide else 32
        for group in range(-(-inodes // per_group)):
            file.seek(_EXT4_BLOCK + group * descriptor_bytes)
            descriptor = file.read(descriptor_bytes)
            (table,) = struct.unpack_from("<I", descriptor, 8)
            if wide:
                table |= struct.unpack_from("<I", descriptor, 40)[0] << 32
            start = table * _EXT4_BLOCK
            file.seek(start)
            raw = bytearray(file.read(per_group * inode_bytes))
            for at in range(0, len(raw), inode_bytes):
                if raw[at : at + 2] != b"\0\0":
                    _settle_inode(raw, at, epoch)
            file.seek(start)
            file.write(raw)


def _settle_inode(raw: bytearray, at: int, epoch: int) -> None:
    """Access and change time become the mtime; what is later than the epoch becomes it."""
    (mtime,) = struct.unpack_from("<I", raw, at + 16)
    (extra,) = struct.unpack_from("<I", raw, at + 136)
    if mtime > epoch:
        mtime, extra = epoch, 0
    for offset in (8, 12, 16):
        struct.pack_into("<I", raw, at + offset, mtime)
    # ctime_extra, mtime_extra, atime_extra; then crtime and its extra.
    struct.pack_into("<IIIII", raw, at + 132, extra, extra, extra, epoch, 0)
