# SPDX-License-Identifier: Apache-2.0
"""Anything that a disk can be made of, into a new raw file."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from innkeeper.disks.expanding import drain, expand, unpack_zip
from innkeeper.disks.frames import DiskHead, FrameError, read_table
from innkeeper.disks.inspecting import find_table
from innkeeper.disks.kinds import Kind, kind_of, other_kind
from innkeeper.disks.moving import Moving
from innkeeper.disks.sink import Sink
from innkeeper.disks.source import PEEK_BYTES, Source
from innkeeper.disks.unpacking import Unpacker
from innkeeper.errors import DiskError, UsageError
from innkeeper.system.files import naming_errors
from innkeeper.system.holes import data_ranges

_COPY_BYTES = 1 << 20
_DIGEST_SUFFIXES = (".sha256", ".sha256.txt")
_DIGEST_MAXIMUM_BYTES = 4096
_SECTOR = 512


@dataclass(frozen=True)
class Given:
    """What is to be imported.

    :ivar path: None for stdin.
    :ivar limit_bytes: no larger disk comes of it; None takes what it declares, and where
        it declares nothing, what is free on the host's disk.
    :ivar any_content: take it also where it does not look like a disk.
    """

    path: Path | None
    limit_bytes: int | None = None
    any_content: bool = False

    @property
    def name(self) -> str:
        """For messages."""
        return "stdin" if self.path is None else str(self.path)


@dataclass(frozen=True)
class Content:
    """What was read.

    :ivar head: what an archive of ours said of the disk.
    :ivar vm_type: what one of ChromeOS said.
    :ivar verified: the digest beside the file was that of the file.
    """

    kind: Kind
    size_bytes: int
    head: DiskHead | None = None
    vm_type: str = ""
    verified: bool = False


def read_disk(given: Given, sink: Sink, *, moving: Moving) -> Content:
    """Read everything into the sink, which has its size then; nothing is left out unchecked.

    :raise DiskError: it is damaged, incomplete, too large or no disk; says where.
    :raise OutOfSpace: the host's disk is about to be full.
    :raise HostError: it cannot be read.
    """
    wanted = wanted_digest(given.path)
    if given.limit_bytes is not None:
        sink.limit_bytes = given.limit_bytes
    with naming_errors(given.name, doing="import", stage="import"), _opened(given.path) as stream:
        info = os.fstat(stream.fileno())
        regular = stat.S_ISREG(info.st_mode)
        moving.total_bytes = info.st_size if regular else 0
        source = Source(stream, moving, hashed=bool(wanted))
        head = source.peek(PEEK_BYTES)
        kind = kind_of(head)
        check_kind(given.name, kind, head, any_content=given.any_content)
        if kind in ("zip", "qcow2") and not regular:
            raise DiskError(
                f"a {kind} cannot be read from a pipe",
                stage="import",
                fix="write it to a file and import that",
            )
        if wanted and kind == "zip":
            compare_digest(given.name, wanted, _digest(stream))
        with _naming(given.name):
            content = _read(given, kind, source, sink, sparse=regular and not wanted)
        if wanted and kind != "zip":
            compare_digest(given.name, wanted, source.sha256())
    if content.size_bytes % _SECTOR:
        raise DiskError(
            f"{given.name} holds {content.size_bytes} bytes, and disks are whole sectors of 512",
            stage="import",
        )
    sink.finish(content.size_bytes)
    return Content(
        content.kind, content.size_bytes, content.head, content.vm_type, verified=bool(wanted)
    )


def check_kind(name: str, kind: Kind, head: bytes, *, any_content: bool) -> None:
    """Refuse what is known to be no disk.

    :raise DiskError: it is told what it is.
    """
    other = other_kind(head) if kind == "raw" else None
    if not head:
        raise DiskError(f"{name} is empty", stage="import")
    if other is None or any_content:
        return
    what, convertible = other
    raise DiskError(
        f"{name} is {what}, which cannot be imported",
        stage="import",
        fix=f"`qemu-img convert -O qcow2 {name} disk.qcow2` makes a disk of it"
        if convertible
        else "give a zstd archive, a zip, a qcow2 or a raw disk",
    )


def _read(given: Given, kind: Kind, source: Source, sink: Sink, *, sparse: bool) -> Content:
    if kind == "zstd":
        return _read_zstd(given, source, sink)
    if kind == "zip":
        return Content(kind, unpack_zip(source.stream, sink, source.tell_of))
    if kind in ("gzip", "xz"):
        return Content(kind, expand(source, kind, sink))
    assert kind == "raw", "qcow2 is read by another program"
    if not sparse:
        return Content(kind, drain(source, sink, limit=None))
    return Content(kind, _copy_file(source, sink))


def _read_zstd(given: Given, source: Source, sink: Sink) -> Content:
    def on_head(head: DiskHead) -> None:
        if given.limit_bytes is None:
            sink.limit_bytes = head.size_bytes
        sink.any_content = True  # a disk made it, and an empty one looks like nothing
        sink.check_space(head.data_bytes)

    if given.limit_bytes is None and given.path is not None:
        declared = _declared_bytes(given.path)
        sink.limit_bytes = sink.limit_bytes if declared is None else declared
    found = Unpacker(source, sink, on_head).run()
    vm_type = found.chromeos.vm_type if found.chromeos is not None else ""
    return Content("zstd", found.size_bytes, found.head, vm_type)


def _declared_bytes(path: Path) -> int | None:
    """What the table at an archive's end says of its size."""
    table = find_table(path)
    if table is None:
        return None
    with contextlib.suppress(FrameError):
        return read_table(table).content_bytes
    return None


def _copy_file(source: Source, sink: Sink) -> int:
    """A raw disk, without its holes."""
    fd = source.stream.fileno()
    size = os.fstat(fd).st_size
    # The beginning too, where it is a hole: somebody looks at it.
    sink.put(os.pread(fd, min(size, PEEK_BYTES), 0), 0)
    for start, end in data_ranges(fd, size):
        at = max(start, min(size, PEEK_BYTES))
        while at < end:
            data = os.pread(fd, min(_COPY_BYTES, end - at), at)
            if not data:
                raise FrameError(f"it was cut off at byte {at} while it was read")
            sink.put(data, at)
            at += len(data)
            source.tell_of(at, size)
    if size > sink.limit_bytes:
        sink.put(b"\0", size - 1)  # says why not
    return size


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Errors of archives, with the archive's name."""
    try:
        yield
    except FrameError as exc:
        raise DiskError(f"{name}: {exc}", stage="import") from exc
    except DiskError as exc:
        raise DiskError(
            f"{name}: {exc.brief}", stage=exc.stage, evidence=exc.evidence, fix=exc.fix
        ) from exc


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[IO[bytes]]:
    if path is None:
        if sys.stdin.isatty():
            raise UsageError("stdin is a terminal", stage="import", fix="give a pipe or a file")
        yield sys.stdin.buffer
        return
    if path.is_dir():
        raise UsageError(f"{path} is a folder", stage="import", fix="give a file")
    with path.open("rb") as file:
        yield file


def wanted_digest(path: Path | None) -> str:
    """The digest that lies beside a file in sha256sum's form, "" where there is none.

    :raise DiskError: there is one, but it cannot be read.
    """
    if path is None:
        return ""
    for suffix in _DIGEST_SUFFIXES:
        beside = path.with_name(path.name + suffix)
        if not beside.is_file():
            continue
        with naming_errors(beside, doing="read", stage="import"), beside.open("rb") as file:
            text = file.read(_DIGEST_MAXIMUM_BYTES)
        match = re.match(rb"\\?([0-9a-fA-F]{64})(\s|$)", text)
        if match is None:
            raise DiskError(
                f"{beside} holds no SHA-256", stage="import", fix="remove it to go without"
            )
        return match[1].decode().lower()
    return ""


def _digest(stream: IO[bytes]) -> str:
    stream.seek(0)
    digest = Source(stream, hashed=True).sha256()
    stream.seek(0)
    return digest


def compare_digest(name: str, wanted: str, found: str) -> None:
    """See that a file is what the digest beside it says.

    :raise DiskError: it is not.
    """
    if wanted != found:
        raise DiskError(
            f"{name} is damaged: it is not what the digest beside it says",
            stage="import",
            evidence=(f"its SHA-256 is {found}", f"the file beside it says {wanted}"),
            fix="fetch the archive again, or its digest",
        )
