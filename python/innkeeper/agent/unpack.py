# SPDX-License-Identifier: Apache-2.0
"""Archives from a guest, which may be hostile, put on the host's disk.

Everything is made below one root. Names outside of it, links that lead out of
it and devices are refused; no path goes through a link, whoever made that.
Headers are read here rather than by `tarfile.open`, which takes extended and
sparse ones of any length into memory.
"""

from __future__ import annotations

import contextlib
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from innkeeper.errors import HostError, InnError, ProtocolError, UsageError
from innkeeper.system.files import file_error

_STAGE = "cp"
_BLOCK = tarfile.BLOCKSIZE
_CHUNK_BYTES = 256 << 10
_NAME_LIMIT = 4096
# What may follow the archive's end: blocks of zeros up to tar's record size.
_TRAILER_LIMIT = 1 << 20
# Folders and links are remembered until the end.
_MEMORY_LIMIT_BYTES = 256 << 20
_MEMORY_EACH_BYTES = 500
# Beyond, some file systems know no time.
_TIME_LIMIT_S = 1 << 34

_LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


@dataclass(frozen=True)
class Policy:
    """What is made of an archive whose names are fine.

    :ivar max_bytes: of all files' contents; None is any.
    :ivar max_entries: of files, folders and links; None is any.
    :ivar mode_mask: these permission bits are kept.
    :ivar owner_access: the owner can read and write everything, whatever its mode.
    :ivar replace: what is there already is replaced; else it counts as sent twice.
    """

    max_bytes: int | None = None
    max_entries: int | None = None
    mode_mask: int = 0o777
    owner_access: bool = False
    replace: bool = True


def entries(stream: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar stream; between two, the caller reads the content with its padding.

    :raise ProtocolError: it is no tar stream of GNU's format, or ends too early.
    """
    names: dict[bytes, str] = {}
    while any(block := _exactly(stream, _BLOCK)):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError) as exc:
            raise _nonsense(f"no good archive: {exc}") from exc
        if info.size < 0:
            raise _nonsense("a file of a negative size")
        if info.type in _LONG_NAMES:
            if info.size > _NAME_LIMIT + 1:
                raise _nonsense(f"a name that is too large: {info.size} bytes")
            text = _exactly(stream, info.size + _padding(info.size))[: info.size]
            names[info.type] = text.partition(b"\0")[0].decode("utf-8", "surrogateescape")
            continue
        info.name = names.get(tarfile.GNUTYPE_LONGNAME, info.name)
        info.linkname = names.get(tarfile.GNUTYPE_LONGLINK, info.linkname)
        if info.isdir():
            info.name = info.name.rstrip("/")
        names.clear()
        yield info


class Unpacker:
    """Takes one archive of `name` and makes it `root`; a single file only at :meth:`commit`.

    :param name: what the guest was asked for, the first part of every name.
    :ivar kind: what the archive is of; None before :meth:`unpack`.
    """

    def __init__(self, name: str, root: Path, policy: Policy | None = None) -> None:
        self.kind: Literal["file", "link", "folder"] | None = None
        self._name = name
        self._root = root
        self._policy = policy or Policy()
        self._bytes = 0
        self._entries = 0
        self._memory_left = _MEMORY_LIMIT_BYTES
        self._temporary: Path | None = None
        # Made when all else is there: nothing can be written through them.
        self._links: dict[Path, tarfile.TarInfo] = {}
        # Set at the end: a folder may be read-only.
        self._folders: list[tuple[Path, tarfile.TarInfo]] = []

    def unpack(self, stream: IO[bytes]) -> None:
        """Read the archive to its end.

        :raise ProtocolError: there is something in it that must not be.
        :raise OutOfSpace: the disk is full.
        :raise HostError: something cannot be written.
        """
        try:
            for info in entries(stream):
                self._count(info)
                self._take(stream, info)
            self._make_links()
        except OSError as exc:
            raise file_error(exc, exc.filename or self._root, doing="write", stage=_STAGE) from exc
        left = _TRAILER_LIMIT
        while left > 0 and (data := stream.read(_CHUNK_BYTES)):
            left -= len(data)
        if left <= 0:
            raise _nonsense("more than an archive")
        if self.kind is None:
            raise _nonsense("an empty archive")

    def commit(self) -> None:
        """Give a single file its name, and folders their modes and times.

        :raise HostError: that failed.
        """
        try:
            if self._temporary is not None:
                self._temporary.replace(self._root)
                self._temporary = None
            for path, info in reversed(self._folders):
                path.chmod(self._mode(info, 0o700))
                _set_time(path, info)
        except OSError as exc:
            raise file_error(exc, self._root, doing="write", stage=_STAGE) from exc

    def discard(self) -> None:
        """Remove what has no name yet. Idempotent."""
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
            self._temporary = None

    def _count(self, info: tarfile.TarInfo) -> None:
        policy = self._policy
        self._entries += 1
        self._bytes += info.size if info.isreg() else 0
        if policy.max_bytes is not None and self._bytes > policy.max_bytes:
            raise _too_much(f"{policy.max_bytes} bytes")
        if policy.max_entries is not None and self._entries > policy.max_entries:
            raise _too_much(f"{policy.max_entries} entries")
        if not info.isreg():
            self._memory_left -= len(info.name) + len(info.linkname) + _MEMORY_EACH_BYTES
            if self._memory_left < 0:
                raise _too_much("folders and links than this program remembers")

    def _take(self, stream: IO[bytes], info: tarfile.TarInfo) -> None:
        rest = self._inside(info.name)
        known = info.isreg() or info.isdir() or info.issym() or info.islnk()
        if not known or info.type == tarfile.GNUTYPE_SPARSE:
            raise _refused(info.name, "is a special file")
        if self.kind in ("file", "link"):
            raise _nonsense("more than the one file")
        if not rest and info.isdir():
            self.kind = "folder"
            self._make_folder(info, self._root)
        elif not rest and self.kind is None:
            self.kind = "link" if info.issym() else "file"
            self._temporary = self._root.with_name(f".inn-cp-{os.urandom(6).hex()}")
            self._make(stream, info, self._temporary)
        elif not rest or self.kind is None:
            raise _nonsense("files without their folder")
        elif info.isdir():
            self._make_folder(info, self._reach(rest))
        else:
            self._make(stream, info, self._reach(rest))

    def _inside(self, name: str) -> str:
        """The part of a member's name below the root."""
        first, _, rest = name.partition("/")
        parts = rest.split("/") if rest else []
        if first != self._name or len(name) > _NAME_LIMIT or {"", ".", ".."} & set(parts):
            raise _nonsense(f"{name[:200]!r}, which is not inside of what was asked for")
        return rest

    def _reach(self, rest: str) -> Path:
        """The path of a member, if all folders on the way are real ones."""
        path = self._root
        for part in rest.split("/")[:-1]:
            path /= part
            if path.is_symlink() or not path.is_dir():
                raise _nonsense(f"{rest[:200]!r}, but {path} is no folder")
        return self._root / rest

    def _make_folder(self, info: tarfile.TarInfo, path: Path) -> None:
        if path.is_symlink() or path in self._links or (path.exists() and not path.is_dir()):
            if path in self._links or not self._policy.replace:
                raise _nonsense(f"{info.name[:200]!r} as a folder and as something else")
            raise UsageError(f"{path} is in the way and no folder", stage=_STAGE)
        path.mkdir(mode=0o700, exist_ok=True)
        self._folders.append((path, info))

    def _make(self, stream: IO[bytes], info: tarfile.TarInfo, path: Path) -> None:
        """Make what is no folder."""
        if self._links.pop(path, None) is not None and not self._policy.replace:
            raise _nonsense(f"{info.name[:200]!r} twice")
        if info.issym():
            self._links[path] = info
            return
        self._make_room(path)
        if info.islnk():
            target = self._reach(self._inside(info.linkname))
            if target == self._root or target.is_symlink() or not target.is_file():
                raise _nonsense(f"a bad link: {info.name[:200]!r}")
            path.hardlink_to(target)
            return
        path.touch(mode=0o600, exist_ok=False)
        with path.open("r+b") as file:
            left = info.size
            while left:
                data = stream.read(min(left, _CHUNK_BYTES))
                if not data:
                    raise _nonsense("half a file")
                file.write(data)
                left -= len(data)
        _exactly(stream, _padding(info.size))
        path.chmod(self._mode(info, 0o600))
        _set_time(path, info)

    def _make_room(self, path: Path) -> None:
        """Remove what has the name of a file or link that is to be made."""
        if not os.path.lexists(path):
            return
        if not self._policy.replace:
            raise _nonsense(f"{path.name[:200]!r} twice")
        if path.is_symlink() and not self._leads_inside(path):
            raise HostError(f"{path} is in the way: a link that leads outside", stage=_STAGE)
        if path.is_dir() and not path.is_symlink():
            raise HostError(f"a folder is in the way of {path}", stage=_STAGE)
        path.unlink()

    def _make_links(self) -> None:
        """Make the symbolic links, and look where they lead; none is left where one is bad."""
        made: list[Path] = []
        try:
            for path, info in self._links.items():
                if not info.linkname or info.linkname.startswith("/"):
                    target = info.linkname[:200]
                    raise _refused(info.name, f"is a link to an absolute path, {target!r}")
                self._make_room(path)
                path.symlink_to(info.linkname)
                made.append(path)
                _set_time(path, info)
            for path, info in self._links.items():
                if not self._leads_inside(path):
                    target = info.linkname[:200]
                    raise _refused(info.name, f"is a link to a path outside, {target!r}")
        except (OSError, InnError):
            for path in made:
                path.unlink(missing_ok=True)
            raise

    def _leads_inside(self, link: Path) -> bool:
        base = self._root if self.kind == "folder" else self._root.parent
        # Not Path.resolve, which raises for links in a circle in some versions only.
        return Path(os.path.realpath(link)).is_relative_to(os.path.realpath(base))

    def _mode(self, info: tarfile.TarInfo, owner: int) -> int:
        return (info.mode & self._policy.mode_mask) | (owner if self._policy.owner_access else 0)


def _set_time(path: Path, info: tarfile.TarInfo) -> None:
    seconds = min(max(0, int(info.mtime)), _TIME_LIMIT_S)
    os.utime(path, (seconds, seconds), follow_symlinks=False)


def _exactly(stream: IO[bytes], count: int) -> bytes:
    data = stream.read(count) if count else b""
    if len(data) != count:
        raise _nonsense("half an archive")
    return data


def _padding(size: int) -> int:
    return -size % _BLOCK


def _nonsense(what: str) -> ProtocolError:
    return ProtocolError(f"the guest sent {what}", stage=_STAGE)


def _too_much(limit: str) -> ProtocolError:
    return ProtocolError(
        f"the guest sent more than {limit}", stage=_STAGE, fix="copy less, or allow more"
    )


def _refused(name: str, why: str) -> ProtocolError:
    return ProtocolError(
        f"refused what the guest sent: {name[:200]!r} {why}",
        stage=_STAGE,
        fix="copy a part without it, or `inn exec NAME tar -c ...` and look at it",
    )
