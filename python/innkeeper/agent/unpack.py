# SPDX-License-Identifier: Apache-2.0
"""Archives from a guest, which may be hostile, put on the host's disk.

Everything is made below one root. Names outside of it, links that lead out of
it and devices are refused; no path goes through a link, whoever made that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
from pathlib import Path
from typing import IO

from innkeeper.errors import HostError, ProtocolError, UsageError
from innkeeper.system.files import file_error

_STAGE = "cp"
_COPY_BYTES = 256 << 10
# Headers of long names and attributes are read into memory as a whole.
_HEADER_LIMIT = 1 << 20
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_NAME_LIMIT = 4096
# What may follow the archive's end: blocks of zeros up to tar's record size.
_TRAILER_LIMIT = 1 << 20


class _Member(tarfile.TarInfo):
    """A header that takes bounded memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        too_large = self.type in _HEADERS and not 0 <= self.size <= _HEADER_LIMIT
        if too_large or self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a header that is too large or not supported")
        proceed = super()._proc_member  # type: ignore[misc]
        found: tarfile.TarInfo = proceed(archive)
        return found


class Unpacker:
    """Takes one archive of `name` and makes it `root`; a single file only at :meth:`commit`.

    :param name: what the guest was asked for, the first part of every name.
    """

    def __init__(self, name: str, root: Path) -> None:
        self.files = 0
        self._name = name
        self._root = root
        self._temporary: Path | None = None
        self._is_folder = False
        # Set at the end: a folder may be read-only.
        self._folders: list[tuple[Path, int, float]] = []

    def unpack(self, stream: IO[bytes]) -> None:
        """Read the archive to its end.

        :raise ProtocolError: there is something in it that must not be.
        :raise OutOfSpace: the disk is full.
        :raise HostError: something cannot be written.
        """
        try:
            with tarfile.open(
                fileobj=stream, mode="r|", tarinfo=_Member, bufsize=_COPY_BYTES
            ) as archive:
                while (member := archive.next()) is not None:
                    self._take(archive, member)
                    archive.members.clear()  # type: ignore[attr-defined]  # else memory grows
        except (tarfile.TarError, ValueError, EOFError) as exc:
            raise ProtocolError(f"the guest sent no good archive: {exc}", stage=_STAGE) from exc
        except OSError as exc:
            raise file_error(exc, exc.filename or self._root, doing="write", stage=_STAGE) from exc
        left = _TRAILER_LIMIT
        while left > 0 and (data := stream.read(_COPY_BYTES)):
            left -= len(data)
        if left <= 0:
            raise ProtocolError("the guest sent more than an archive", stage=_STAGE)
        if not self._is_folder and self._temporary is None:
            raise ProtocolError("the guest sent an empty archive", stage=_STAGE)

    def commit(self) -> None:
        """Give a single file its name, and folders their modes and times.

        :raise HostError: that failed.
        """
        try:
            if self._temporary is not None:
                self._temporary.replace(self._root)
                self._temporary = None
            for path, mode, mtime in reversed(self._folders):
                path.chmod(mode)
                os.utime(path, (mtime, mtime))
        except OSError as exc:
            raise file_error(exc, self._root, doing="write", stage=_STAGE) from exc

    def discard(self) -> None:
        """Remove what has no name yet. Idempotent."""
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                self._temporary.unlink()
            self._temporary = None

    def _take(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        rest = self._inside(member.name)
        if self._temporary is not None:
            raise ProtocolError("the guest sent more than the one file", stage=_STAGE)
        if not rest and not member.isdir():
            self._check(member, self._root.parent, self._root.name)
            self._temporary = self._root.with_name(f".inn-cp-{os.urandom(6).hex()}")
            self._make(archive, member, self._temporary)
        elif not rest:
            self._is_folder = True
            self._make_folder(member, self._root)
        else:
            if not self._is_folder:
                raise ProtocolError("the guest sent files without their folder", stage=_STAGE)
            self._check(member, self._root, rest)
            target = self._reach(rest)
            if member.isdir():
                self._make_folder(member, target)
                return
            if target.is_dir() and not target.is_symlink():
                raise HostError(f"a folder is in the way of {target}", stage=_STAGE)
            target.unlink(missing_ok=True)
            self._make(archive, member, target)

    def _inside(self, name: str) -> str:
        """The part of a member's name below the root."""
        first, _, rest = name.partition("/")
        parts = rest.split("/") if rest else []
        if first != self._name or len(name) > _NAME_LIMIT or {"", ".", ".."} & set(parts):
            raise ProtocolError(
                f"the guest sent {name[:200]!r}, which is not inside of what was asked for",
                stage=_STAGE,
            )
        return rest

    def _check(self, member: tarfile.TarInfo, base: Path, name: str) -> None:
        if member.islnk():
            linked = self._inside(member.linkname)
            if not linked or self._reach(linked).is_symlink():
                raise ProtocolError(f"the guest sent a bad link: {name!r}", stage=_STAGE)
        refusal = _refusal(member, base, name)
        if refusal is not None:
            raise ProtocolError(
                f"refused what the guest sent: {name!r} {refusal}",
                stage=_STAGE,
                fix="copy a part without it, or `inn exec NAME tar -c ...` and look at it",
            )

    def _reach(self, rest: str) -> Path:
        """The path of a member, if all folders on the way are real ones."""
        path = self._root
        for part in rest.split("/")[:-1]:
            path /= part
            if path.is_symlink() or not path.is_dir():
                raise ProtocolError(
                    f"the guest sent {rest[:200]!r}, but {path} is no folder", stage=_STAGE
                )
        return self._root / rest

    def _make_folder(self, member: tarfile.TarInfo, path: Path) -> None:
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise UsageError(f"{path} is in the way and no folder", stage=_STAGE)
        path.mkdir(mode=0o700, exist_ok=True)
        self._folders.append((path, member.mode & 0o777, member.mtime))

    def _make(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        self.files += 1
        if member.issym():
            path.symlink_to(member.linkname)
            os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)
            return
        if member.islnk():
            path.hardlink_to(self._reach(self._inside(member.linkname)))
            return
        source = archive.extractfile(member)
        if source is None:
            raise ProtocolError(f"the guest sent something unknown: {path.name!r}", stage=_STAGE)
        path.touch(mode=0o600, exist_ok=False)
        with path.open("r+b") as file:
            shutil.copyfileobj(source, file, _COPY_BYTES)
        path.chmod(member.mode & 0o777)
        os.utime(path, (member.mtime, member.mtime))


def _refusal(member: tarfile.TarInfo, base: Path, name: str) -> str | None:
    """Why a member must not be made below `base`; None where it may.

    Not `tarfile.data_filter`: Debian 12's Python 3.11.2 has none.
    """
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        return "is a special file"
    root = base.resolve()
    if not (root / name).resolve().is_relative_to(root):
        return "would go through a link that is there and leads outside"
    if member.issym():
        if member.linkname.startswith("/"):
            return f"is a link to an absolute path, {member.linkname[:200]!r}"
        leads_to = (root / name).parent.joinpath(member.linkname).resolve()
        if not leads_to.is_relative_to(root):
            return f"is a link to a path outside, {member.linkname[:200]!r}"
    return None
