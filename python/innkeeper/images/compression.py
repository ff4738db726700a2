# SPDX-License-Identifier: Apache-2.0
"""Telling compressed data by its first bytes, and expanding it up to a limit.

gzip, xz, lzma and bzip2 come with Python; lz4, zstd and lzo are left to their programs.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Protocol

from innkeeper.errors import HostError, ImageError, MissingProgram
from innkeeper.system.output import program_output

# The first bytes of what the kernel (lib/decompress.c) and module tools produce.
_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x1f\x9e", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x5d\x00\x00", "lzma"),
    (b"BZh", "bzip2"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x02\x21\x4c\x18", "lz4"),  # the legacy frame, as kernels have it
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x89LZO\x00", "lzo"),
)

_PROGRAMS = {
    "lz4": ("lz4", "-dc"),
    "zstd": ("zstd", "-dcq", "--single-thread"),
    "lzo": ("lzop", "-dc"),
}

_PACKAGES = {"lzo": "lzop"}


def compression_of(data: bytes) -> str | None:
    """The name of the compression that data begins with, or None."""
    for magic, name in _MAGICS:
        if data.startswith(magic):
            return name
    return None


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def decompress(data: bytes, kind: str, *, limit: int) -> bytes:
    """Expand data.

    :param kind: a name from :func:`compression_of`.
    :param limit: the most bytes that may come out.
    :raise ImageError: the data is damaged, ends early or gives more than `limit` bytes.
    :raise MissingProgram: the program for this kind is not installed.
    """
    makers: dict[str, Callable[[], _Decompressor]] = {
        "gzip": lambda: zlib.decompressobj(wbits=31),
        "xz": lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ),
        "lzma": lambda: lzma.LZMADecompressor(format=lzma.FORMAT_ALONE),
        "bzip2": bz2.BZ2Decompressor,
    }
    if kind in makers:
        return _with_library(makers[kind](), data, kind, limit)
    if kind in _PROGRAMS:
        return _with_program(data, kind, limit)
    raise ImageError(f"no way to expand {kind} data", stage="image")


def _with_library(machine: _Decompressor, data: bytes, kind: str, limit: int) -> bytes:
    try:
        out = machine.decompress(data, limit + 1)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as exc:
        raise ImageError(f"damaged {kind} data: {exc}", stage="image") from exc
    if len(out) > limit:
        raise ImageError(f"{kind} data expands to more than {limit} bytes", stage="image")
    if not machine.eof:
        raise ImageError(f"the {kind} data ends early", stage="image")
    return out


def _with_program(data: bytes, kind: str, limit: int) -> bytes:
    try:
        with program_output(_PROGRAMS[kind], stage="image", stdin_bytes=data) as output:
            out = output.read(limit + 1)
            if len(out) > limit:
                raise ImageError(f"{kind} data expands to more than {limit} bytes", stage="image")
    except MissingProgram as exc:
        raise MissingProgram(
            exc.brief, stage="image", fix=f"apt-get install {_PACKAGES.get(kind, kind)}"
        ) from exc
    except HostError as exc:
        raise ImageError(f"damaged {kind} data", stage="image", evidence=exc.evidence) from exc
    return out
