# SPDX-License-Identifier: Apache-2.0
"""Writing an initramfs: the "newc" cpio format, the same bytes for the same content.

The format is in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst:
a header of ASCII fields, the name and the data, each padded to four bytes. Times are
zero, owners are what the caller says, inode numbers count up in the order of names.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass

from innkeeper.errors import ImageError

_TRAILER = "TRAILER!!!"
_ALIGN = 4
# The archive is padded as cpio(1) does, so that two of them can be put together.
_BLOCK = 512
# A field has eight hex digits; initramfs is far from it, but say so rather than overflow.
_FIELD_MAXIMUM = 0xFFFF_FFFF
# PATH_MAX: the kernel skips longer names (init/initramfs.c).
_NAME_MAXIMUM = 4096


@dataclass(frozen=True)
class _Entry:
    mode: int
    data: bytes = b""
    uid: int = 0
    gid: int = 0
    device: tuple[int, int] = (0, 0)


class Archive:
    """An initramfs in the making. Names have no leading slash; folders come to be as needed."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def folder(self, name: str, mode: int = 0o755, *, uid: int = 0, gid: int = 0) -> None:
        """A folder; given again, the last mode and owner count."""
        self._put(name, _Entry(stat.S_IFDIR | mode, uid=uid, gid=gid))

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """A regular file of root's."""
        self._put(name, _Entry(stat.S_IFREG | mode, data))

    def symlink(self, name: str, target: str) -> None:
        """A symbolic link."""
        self._put(name, _Entry(stat.S_IFLNK | 0o777, target.encode()))

    def device(self, name: str, mode: int, major: int, minor: int) -> None:
        """A character device."""
        self._put(name, _Entry(stat.S_IFCHR | mode, device=(major, minor)))

    def _put(self, name: str, entry: _Entry) -> None:
        parts = name.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in name or name == _TRAILER:
            raise ImageError(f"{name!r} cannot be a name in an initramfs", stage="image")
        if len(name.encode()) >= _NAME_MAXIMUM or len(entry.data) > _FIELD_MAXIMUM:
            raise ImageError(f"{name[:80]!r} is too large for an initramfs", stage="image")
        for end in range(1, len(parts)):
            parent = "/".join(parts[:end])
            if not stat.S_ISDIR(
                self._entries.setdefault(parent, _Entry(stat.S_IFDIR | 0o755)).mode
            ):
                raise ImageError(f"{name!r} is below {parent!r}, which is no folder", stage="image")
        self._entries[name] = entry

    def to_bytes(self) -> bytes:
        """The archive. A folder comes before what is in it, as the kernel needs it."""
        out = bytearray()
        # The root itself: the kernel's rootfs is writable for everybody until told otherwise.
        _append(out, ".", _Entry(stat.S_IFDIR | 0o755), 1)
        # By parts, not by text: "a-b" must not come between "a" and "a/c".
        names = sorted(self._entries, key=lambda name: name.split("/"))
        for inode, name in enumerate(names, start=2):
            _append(out, name, self._entries[name], inode)
        _append(out, _TRAILER, _Entry(0), 0)
        out.extend(bytes(-len(out) % _BLOCK))
        return bytes(out)


def _append(out: bytearray, name: str, entry: _Entry, inode: int) -> None:
    raw_name = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode,
        entry.mode,
        entry.uid,
        entry.gid,
        links,
        0,  # mtime
        len(entry.data),
        0,  # device of the file
        0,
        *entry.device,
        len(raw_name),
        0,  # checksum, only in the "crc" variant
    )
    out += b"070701" + b"".join(b"%08X" % field for field in fields)
    out += raw_name
    out.extend(bytes(-len(out) % _ALIGN))
    out += entry.data
    out.extend(bytes(-len(out) % _ALIGN))
