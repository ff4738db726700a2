# SPDX-License-Identifier: Apache-2.0
"""Telling by its first bytes what somebody wants to import. Pure."""

from __future__ import annotations

from typing import Literal

from innkeeper.system.holes import is_zero

Kind = Literal["zstd", "zip", "gzip", "xz", "qcow2", "raw"]
KINDS: tuple[Kind, ...] = ("zstd", "zip", "gzip", "xz", "qcow2", "raw")

_ARCHIVES: tuple[tuple[bytes, Kind], ...] = (
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),  # one without files
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"QFI\xfb", "qcow2"),
)

# What people have beside disks, told by name; `qemu-img` reads the first ones.
_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"KDMV", "a VMDK disk"),
    (0, b"COWD", "a VMDK disk"),
    (0, b"# Disk Descriptor", "a VMDK disk's description"),
    (0, b"vhdxfile", "a VHDX disk"),
    (0, b"conectix", "a VHD disk"),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI disk"),
    (0, b"QED\0", "a QED disk"),
    (0, b"\x7fELF", "a program"),
    (0, b"BZh", "bzip2 data"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"\x04\x22\x4d\x18", "lz4 data"),
    (257, b"ustar", "a tar"),
)
_CONVERTIBLE = " disk"

# Offset and bytes of what a disk begins with: partition tables, file systems, volumes.
_DISKS: tuple[tuple[int, bytes], ...] = (
    (510, b"\x55\xaa"),  # MBR, FAT, NTFS
    (512, b"EFI PART"),
    (0x438, b"\x53\xef"),  # ext2, 3 and 4
    (0x10040, b"_BHRfS_M"),  # btrfs
    (0, b"XFSB"),
    (0x400, b"\x10\x20\xf5\xf2"),  # f2fs
    (0x400, b"\xe2\xe1\xf5\xe0"),  # erofs
    (0, b"hsqs"),  # squashfs
    (0x8001, b"CD001"),  # ISO 9660
    (0, b"LUKS\xba\xbe"),
    (512, b"LABELONE"),  # LVM
    (4086, b"SWAPSPACE2"),
)


def kind_of(head: bytes) -> Kind:
    """What something is that begins with these bytes; "raw" where it is no archive."""
    for magic, kind in _ARCHIVES:
        if head.startswith(magic):
            return kind
    # 16 skippable frames of zstd: 50 2a 4d 18 to 5f 2a 4d 18.
    if head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5:
        return "zstd"
    return "raw"


def other_kind(head: bytes) -> tuple[str, bool] | None:
    """The name of what is not imported, and whether `qemu-img` makes a disk of it."""
    for offset, magic, name in _OTHERS:
        if head[offset : offset + len(magic)] == magic:
            return name, _CONVERTIBLE in name
    return None


def looks_like_disk(head: bytes) -> bool:
    """True where a disk may begin so: something known, or nothing but zeros.

    :param head: 128 KiB, or all there is.
    """
    if any(head[offset : offset + len(magic)] == magic for offset, magic in _DISKS):
        return True
    return is_zero(head)
