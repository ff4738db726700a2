# SPDX-License-Identifier: Apache-2.0
"""Tar streams to a guest, and from one, which may be hostile.

Of an archive from a guest, only what can be made safely is taken: regular
files, folders, links that stay inside. The reader holds one header at a time
in memory (`tarfile` would read an extended header of any length), makes
symbolic links last, so that nothing is ever written through one, and writes
into a new folder that is moved to its place when everything is there.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from innkeeper.errors import HostError, OutOfSpace, ProtocolError

_BLOCK = 512
_LONG_NAME_LIMIT = 8 << 10
_CHUNK = 256 << 10
_DEPTH_LIMIT = 200
_TRAILER_LIMIT = 1 << 20

Parts = tuple[str, ...]


class StoppedReadingError(Exception):
    """The guest's tar reads no more; its exit code and words say why."""


class _Feed(io.RawIOBase):
    """A stream to the guest whose failures are not mistaken for those of the files read."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, data: Any) -> int:  # noqa: ANN401 - as io.RawIOBase.write
        """Write all of it."""
        try:
            return self._stream.write(data)
        except (OSError, ValueError) as exc:
            raise StoppedReadingError from exc


def write_tree(stream: BinaryIO, source: Path, arcname: str) -> None:
    """A tar stream of a file or folder, with modes and mtimes, owned by root.

    Sockets, fifos and devices are left out.

    :raise StoppedReadingError: the guest does not take it.
    :raise OSError: something cannot be read.
    """

    def owned_by_root(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        # Whole seconds: busybox reads no other.
        info.mtime = int(info.mtime)
        return info if info.isreg() or info.isdir() or info.issym() or info.islnk() else None

    # busybox reads GNU's long names, and not those of PAX.
    with tarfile.open(fileobj=_Feed(stream), mode="w|", format=tarfile.GNU_FORMAT) as archive:
        archive.add(source, arcname=arcname, filter=owned_by_root)


class Limits:
    """What is left of the room for an archive."""

    def __init__(self, *, max_bytes: int, max_entries: int) -> None:
        self._bytes_left = max_bytes
        self._entries_left = max_entries
        self._max = (max_bytes, max_entries)

    def take(self, size_bytes: int) -> None:
        """Count one entry.

        :raise ProtocolError: it is one too many, or too large.
        """
        self._entries_left -= 1
        self._bytes_left -= size_bytes
        if self._entries_left < 0 or self._bytes_left < 0:
            raise ProtocolError(
                f"the guest sends more than {self._max[0]} bytes or {self._max[1]} entries",
                stage="pull",
                fix="pull less, or raise max_bytes or max_entries",
            )


def entries(stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar stream; between two, the caller reads the content with its padding.

    :raise ProtocolError: it is no tar stream, or ends too early.
    """
    names: dict[bytes, str] = {}
    while any(block := _exactly(stream, _BLOCK)):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as exc:
            raise _nonsense("what is no tar header") from exc
        if info.size < 0:
            raise _nonsense("a negative size")
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            if info.size > _LONG_NAME_LIMIT:
                raise _nonsense(f"a name of {info.size} bytes")
            text = _exactly(stream, info.size + _padding(info.size))[: info.size]
            names[info.type] = text.partition(b"\0")[0].decode("utf-8", "surrogateescape")
            continue
        info.name = names.get(tarfile.GNUTYPE_LONGNAME, info.name)
        info.linkname = names.get(tarfile.GNUTYPE_LONGLINK, info.linkname)
        names.clear()
        yield info


def read_file(stream: BinaryIO, target: Path, limits: Limits) -> None:
    """The one regular file of a tar stream, at a path that does not exist yet.

    :raise ProtocolError: there is another thing in the stream.
    :raise HostError: it cannot be written.
    """
    info = next(entries(stream), None)
    if info is None or not info.isreg():
        raise _nonsense("something else than one file")
    limits.take(info.size)
    _write(stream, target, info)


def read_tree(stream: BinaryIO, root: Path, limits: Limits) -> None:
    """The content of a tar stream, in the empty folder `root`.

    :raise ProtocolError: something in it has no safe meaning; the folder is then half filled.
    :raise HostError: something cannot be written.
    """
    tree = _Tree(root)
    for info in entries(stream):
        limits.take(info.size if info.isreg() else 0)
        tree.add(info, stream)
    tree.finish()


class _Tree:
    """A folder that is being filled; knows what in it is of its own making."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[Parts, tarfile.TarInfo | None] = {(): None}
        self._files: set[Parts] = set()
        self._links: dict[Parts, str] = {}

    def add(self, info: tarfile.TarInfo, stream: BinaryIO) -> None:
        """Make one entry."""
        parts = _parts(info.name)
        if info.isdir():
            self._make_folder(parts, info)
            return
        self._make_folder(parts[:-1], None)
        if not parts or parts in self._folders or parts in self._files or parts in self._links:
            raise _nonsense(f"{info.name!r} twice")
        if info.isreg():
            _write(stream, self._root.joinpath(*parts), info)
            self._files.add(parts)
        elif info.issym():
            self._links[parts] = info.linkname
        elif info.islnk():
            known = _parts(info.linkname)
            if known not in self._files:
                raise _nonsense(f"a link to {info.linkname!r}, which it did not send")
            os.link(self._root.joinpath(*known), self._root.joinpath(*parts))
            self._files.add(parts)
        else:
            raise _nonsense(f"{info.name!r}, which is no file, folder or link")

    def finish(self) -> None:
        """Make the symbolic links, look where they lead, set the folders' times."""
        for parts, target in self._links.items():
            if not target or target.startswith("/") or "\0" in target:
                raise _nonsense(f"the link {'/'.join(parts)!r} to {target!r}")
            self._root.joinpath(*parts).symlink_to(target)
        inside = self._root.resolve()
        for parts in self._links:
            try:
                leads_to = self._root.joinpath(*parts).resolve()
            except (OSError, RuntimeError) as exc:
                raise _nonsense(f"the link {'/'.join(parts)!r} in a circle") from exc
            if not leads_to.is_relative_to(inside):
                raise _nonsense(f"the link {'/'.join(parts)!r}, which leads outside")
        for parts in sorted(self._folders, key=len, reverse=True):
            info = self._folders[parts]
            if info is not None:
                path = self._root.joinpath(*parts)
                path.chmod(info.mode & 0o755 | 0o700)
                _set_time(path, info)

    def _make_folder(self, parts: Parts, info: tarfile.TarInfo | None) -> None:
        for depth in range(len(parts) + 1):
            here = parts[:depth]
            if here in self._files or here in self._links:
                raise _nonsense(f"{'/'.join(here)!r} as a folder and as something else")
            if here not in self._folders:
                self._root.joinpath(*here).mkdir(mode=0o700)
                self._folders[here] = None
        if info is not None:
            self._folders[parts] = info


def _parts(name: str) -> Parts:
    parts = tuple(part for part in PurePosixPath(name).parts if part != ".")
    if name.startswith("/") or ".." in parts or "\0" in name or len(parts) > _DEPTH_LIMIT:
        raise _nonsense(f"the name {name[:200]!r}")
    return parts


def _write(stream: BinaryIO, path: Path, info: tarfile.TarInfo) -> None:
    """The content of an entry as a new file."""
    left = info.size
    try:
        # "x": never through a link, never over something.
        with path.open("xb") as file:
            while left:
                data = stream.read(min(left, _CHUNK))
                if not data:
                    raise _nonsense("half a file")
                file.write(data)
                left -= len(data)
    except OSError as exc:
        kind = OutOfSpace if exc.errno in (28, 122) else HostError  # ENOSPC, EDQUOT
        raise kind(f"cannot write {path}: {exc.strerror}", stage="pull") from exc
    _exactly(stream, _padding(info.size))
    path.chmod(info.mode & 0o755 | 0o600)
    _set_time(path, info)


def _set_time(path: Path, info: tarfile.TarInfo) -> None:
    """Its time of change, where the host knows such a time."""
    seconds = min(max(0, int(info.mtime)), 1 << 34)
    os.utime(path, (seconds, seconds))


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count) if count else b""
    if len(data) != count:
        raise _nonsense("half an archive")
    return data


def _padding(size: int) -> int:
    return -size % _BLOCK


def _nonsense(what: str) -> ProtocolError:
    return ProtocolError(f"the guest sent {what}", stage="pull")


def drain(stream: BinaryIO) -> None:
    """Read what follows the end of an archive: padding, and not much of it.

    :raise ProtocolError: there is more than any tar writes.
    """
    if len(stream.read(_TRAILER_LIMIT + 1)) > _TRAILER_LIMIT:
        raise _nonsense("more after the end of the archive")
