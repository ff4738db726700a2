# SPDX-License-Identifier: Apache-2.0
"""Reading the older archives of disks: a zip with one file, gzip and xz, a tar in one of these.

As everywhere, memory is bounded whatever a file says, and its checksums are compared.
"""

from __future__ import annotations

import lzma
import stat
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Protocol, cast

from innkeeper.disks.frames import FrameError
from innkeeper.disks.kinds import Kind
from innkeeper.disks.sink import Sink
from innkeeper.disks.source import Source
from innkeeper.errors import DiskError

_PIECE_BYTES = 1 << 20
_INPUT_BYTES = 64 * 1024
# The directory of a zip with one file is small; the library reads it as a whole.
_ZIP_READ_MAXIMUM_BYTES = 4 << 20
_XZ_MEMORY_BYTES = 256 << 20
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_TAR_BLOCK = 512
# Longer names and times come before a file; one disk needs few of them.
_TAR_EXTRAS_MAXIMUM_BYTES = 64 * 1024


class Reader(Protocol):
    """Something that is read as a file."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes, none at the end."""


def unpack_zip(stream: IO[bytes], sink: Sink, tell: Callable[[int, int], None]) -> int:
    """The one file of a zip into a sink; returns its size.

    :param stream: a file that can be sought in.
    :param tell: gets how much is done, of how much.
    :raise DiskError: it is damaged, or has none or several files.
    """
    try:
        with zipfile.ZipFile(cast("IO[bytes]", Careful(stream))) as archive:
            member = _only_file(archive)
            size = member.file_size
            with archive.open(member) as content:
                return drain(
                    cast("Reader", content), sink, limit=size, tell=lambda at: tell(at, size)
                )
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, FrameError) as exc:
        raise _damaged("zip", str(exc) or "it ends early", stream) from exc
    except (ValueError, OverflowError) as exc:
        raise _damaged("zip", f"its directory makes no sense ({exc})", stream) from exc


def _only_file(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) != 1:
        names = ", ".join(repr(member.filename) for member in members[:4]) or "none"
        raise DiskError(
            f"the zip holds {len(members)} files, not the one of a disk",
            stage="import",
            evidence=(names,),
        )
    member = members[0]
    mode = member.external_attr >> 16
    if member.flag_bits & _ENCRYPTED or member.compress_type not in _ZIP_METHODS:
        raise FrameError("its file is encrypted, or compressed in a way that disks never are")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise FrameError(f"{member.filename!r} is no file")
    return member


def expand(source: Source, kind: Kind, sink: Sink) -> int:
    """The content of gzip or xz data, or of the first file of a tar in it; returns its size.

    :raise DiskError: it is damaged or ends early.
    """
    content = _Expanded(source, kind)
    try:
        return _expand(content, sink)
    except (zlib.error, lzma.LZMAError, EOFError, FrameError) as exc:
        raise _damaged(kind, str(exc), source) from exc


def _expand(content: _Expanded, sink: Sink) -> int:
    if content.peek(_TAR_BLOCK)[257:262] == b"ustar":
        size = _tar_member(content)
        done = drain(content, sink, limit=size)
        if done != size:
            raise FrameError(f"the tar's file ends after {done} of {size} bytes")
        content.skip_rest()
    else:
        done = drain(content, sink, limit=None)
    if done == 0:
        raise FrameError("it is empty")
    return done


def drain(
    content: Reader,
    sink: Sink,
    *,
    limit: int | None,
    tell: Callable[[int], None] = lambda _at: None,
) -> int:
    """Everything, or `limit` bytes of it, into the sink; returns how much that was."""
    at = 0
    while limit is None or at < limit:
        want = _PIECE_BYTES if limit is None else min(_PIECE_BYTES, limit - at)
        parts, have = [], 0
        # Whole pieces, so that the first one shows what the disk is.
        while have < want and (part := content.read(want - have)):
            parts.append(part)
            have += len(part)
        if not have:
            break
        sink.put(b"".join(parts), at)
        at += have
        tell(at)
    return at


def _damaged(kind: str, what: str, where: Source | IO[bytes]) -> DiskError:
    at = where.position if isinstance(where, Source) else where.tell()
    return DiskError(
        f"the {kind} archive is damaged: {what}",
        stage="import",
        evidence=(f"near byte {at} of the archive",),
        fix="fetch or make the archive again",
    )


class Careful:
    """A file that refuses to read more at once than a zip of one file can need."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        if size < 0:
            data = self._stream.read(_ZIP_READ_MAXIMUM_BYTES + 1)
        else:
            data = self._stream.read(min(size, _ZIP_READ_MAXIMUM_BYTES + 1))
        if len(data) > _ZIP_READ_MAXIMUM_BYTES:
            raise FrameError("its directory is too large for one file")
        return data


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Expanded:
    """The content of gzip or xz data, one stream after the other, as a file."""

    def __init__(self, source: Source, kind: Kind) -> None:
        self._source = source
        self._kind = kind
        self._machine = self._new()
        self._input = b""
        self._ready = b""

    def _new(self) -> _Decompressor:
        if self._kind == "gzip":
            return zlib.decompressobj(wbits=31)
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)

    def peek(self, size: int) -> bytes:
        """What comes next, less at the end."""
        while len(self._ready) < size and (more := self._more(_PIECE_BYTES)):
            self._ready += more
        return self._ready[:size]

    def read(self, size: int, /) -> bytes:
        """At most so many bytes, none at the end."""
        if self._ready:
            data, self._ready = self._ready[:size], self._ready[size:]
            return data
        return self._more(size)

    def skip_rest(self) -> None:
        """Read to the end, where the checksum is."""
        while self.read(_PIECE_BYTES):
            pass

    def _more(self, size: int) -> bytes:
        while True:
            if self._machine.eof:
                rest = self._machine.unused_data or self._input
                self._input = rest.lstrip(b"\0") or self._source.read(_INPUT_BYTES).lstrip(b"\0")
                if not self._input:
                    return b""
                self._machine = self._new()
            data = self._machine.decompress(self._input, size)
            # zlib keeps what it did not take; lzma keeps it inside.
            self._input = getattr(self._machine, "unconsumed_tail", b"")
            if data:
                return data
            if not self._machine.eof and not self._input:
                self._input = self._source.read(_INPUT_BYTES)
                if not self._input:
                    raise FrameError("it ends early")


def _tar_member(content: _Expanded) -> int:
    """Go to the first file of a tar; its size.

    :raise FrameError: there is none, or its header is damaged.
    """
    extras = 0
    while True:
        header = b""
        while len(header) < _TAR_BLOCK and (part := content.read(_TAR_BLOCK - len(header))):
            header += part
        if len(header) < _TAR_BLOCK or not any(header):
            raise FrameError("the tar holds no file")
        if _tar_number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 32:
            raise FrameError("a header of the tar is damaged")
        size, kind = _tar_number(header[124:136]), header[156:157]
        if kind in (b"0", b"\0"):
            return size
        if kind not in (b"x", b"g", b"L", b"K", b"5"):
            raise FrameError("the tar begins with something that is no file")
        left = -(-size // _TAR_BLOCK) * _TAR_BLOCK
        extras += left + _TAR_BLOCK
        if extras > _TAR_EXTRAS_MAXIMUM_BYTES:
            raise FrameError("there is too much before the tar's file")
        while left > 0 and (part := content.read(left)):
            left -= len(part)


def _tar_number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: larger than eight octal digits can be
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    try:
        return int(field.rstrip(b"\0 ") or b"0", 8)
    except ValueError as exc:
        raise FrameError("a header of the tar is damaged") from exc
