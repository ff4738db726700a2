# SPDX-License-Identifier: Apache-2.0
"""The header of a qcow2 file. Pure; the layout is in QEMU's docs/interop/qcow2.rst.

It is read here and not by `qemu-img info`, which opens the files that a header
names before anybody could refuse them.
"""

from __future__ import annotations

import struct

from innkeeper.errors import DiskError

MAGIC = b"QFI\xfb"
HEADER_BYTES = 104

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
# Offset 72 in version 3.
_INCOMPATIBLE = struct.Struct(">Q")
_EXTERNAL_DATA = 1 << 2
_CORRUPT = 1 << 1
# Dirty (refcounts), corrupt, external data, compression type, extended L2 entries.
_KNOWN = 0b11111
_SECTOR = 512
# QEMU's own limit (QCOW_MAX_L1_SIZE) makes this the largest disk with small clusters.
_SIZE_MAXIMUM = 1 << 56


def is_qcow2(head: bytes) -> bool:
    """Whether a file with these first bytes says that it is one."""
    return head.startswith(MAGIC)


def qcow2_size(head: bytes, *, source: str) -> int:
    """The size of the disk in a qcow2 file, in bytes.

    :param head: its first `HEADER_BYTES`.
    :param source: the file, for errors.
    :raise DiskError: it is not complete in itself, encrypted, damaged or of a later version.
    """
    if len(head) < HEADER_BYTES or not is_qcow2(head):
        raise _refused(source, "its header is cut off")
    _, version, backing, _, _, size_bytes, encryption, *_ = _HEADER.unpack_from(head)
    if version not in (2, 3):
        raise _refused(source, f"its version is {version}")
    features = _INCOMPATIBLE.unpack_from(head, _HEADER.size)[0] if version == 3 else 0
    if backing:
        raise _refused(
            source,
            "it rests on another file",
            fix="`qemu-img convert -O qcow2` makes one file of both, if you trust what it names",
        )
    if features & _EXTERNAL_DATA:
        raise _refused(
            source,
            "its content is in another file",
            fix="`qemu-img convert -O qcow2` makes one file of both, if you trust what it names",
        )
    if features & _CORRUPT:
        raise _refused(source, "it is marked as corrupt", fix="try `qemu-img check -r all`")
    if features & ~_KNOWN:
        raise _refused(source, "it has features of a later version")
    if encryption:
        raise _refused(source, "it is encrypted", fix="convert it with `qemu-img convert`")
    if not 0 < size_bytes <= _SIZE_MAXIMUM or size_bytes % _SECTOR:
        raise _refused(source, f"its size of {size_bytes} bytes is none")
    return int(size_bytes)


def _refused(source: str, why: str, *, fix: str = "") -> DiskError:
    return DiskError(f"{source} cannot be a disk: {why}", stage="disk", fix=fix)
