# SPDX-License-Identifier: Apache-2.0
"""The little of ELF that images need: sections, notes and the interpreter.

Every offset comes from the file and is checked before it is followed; whatever a file
says, the work is bounded by its size. The layout is in elf(5).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from innkeeper.errors import ImageError

MAGIC = b"\x7fELF"
PT_INTERP = 3
PT_NOTE = 4

# Xen's ELF note with the 32-bit entry point of a PVH guest (xen/include/public/elfnote.h).
_PVH_NAME = b"Xen\0"
_PVH_TYPE = 18

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NOTE = struct.Struct("<III")
_CLASS_64 = 2
_LITTLE = 1
_X86_64 = 62
_SHT_NOBITS = 8
# Past this many notes something is wrong; kernels have about ten.
_NOTES_MAXIMUM = 4096


@dataclass(frozen=True)
class Segment:
    """One program header."""

    kind: int
    offset: int
    file_bytes: int
    align: int


class Elf:
    """A 64-bit little-endian x86 ELF file in memory.

    :raise ImageError: it is none, or it is cut off.
    """

    def __init__(self, data: bytes | mmap.mmap, name: str) -> None:
        # No memoryview: one that outlives an error would keep a mapping from being closed.
        self._data = data
        self.name = name
        header = self._unpack(_HEADER, 0)
        ident, machine = data[: len(MAGIC) + 2], header[2]
        if not ident.startswith(MAGIC):
            raise self._wrong("is not an ELF file")
        if ident[4] != _CLASS_64 or ident[5] != _LITTLE or machine != _X86_64:
            raise self._wrong("is an ELF file, but not for 64-bit x86")
        self._program_offset, self._section_offset = header[5], header[6]
        self._program_size, self._program_count = header[9], header[10]
        self._section_size, self._section_count = header[11], header[12]
        self._names_index = header[13]

    def _wrong(self, what: str) -> ImageError:
        return ImageError(f"{self.name} {what}", stage="image")

    def _unpack(self, layout: struct.Struct, offset: int) -> tuple[int, ...]:
        if offset < 0 or offset + layout.size > len(self._data):
            raise self._wrong("is cut off, or not an ELF file")
        return layout.unpack_from(self._data, offset)

    def _slice(self, offset: int, size: int) -> bytes:
        if offset + size > len(self._data):
            raise self._wrong("is cut off")
        return self._data[offset : offset + size]

    def segments(self) -> Iterator[Segment]:
        """The program headers."""
        if self._program_count and self._program_size != _PROGRAM.size:
            raise self._wrong("has program headers of an unknown size")
        for index in range(self._program_count):
            field = self._unpack(_PROGRAM, self._program_offset + index * _PROGRAM.size)
            yield Segment(field[0], field[2], field[5], field[7])

    def has_interpreter(self) -> bool:
        """True for a dynamically linked program."""
        return any(segment.kind == PT_INTERP for segment in self.segments())

    def section(self, wanted: str) -> bytes | None:
        """The content of the first section of this name, or None."""
        if self._section_count and self._section_size != _SECTION.size:
            raise self._wrong("has section headers of an unknown size")
        if self._names_index >= self._section_count:
            return None
        names = self._section_data(self._names_index)
        pattern = wanted.encode() + b"\0"
        for index in range(self._section_count):
            start = self._section_header(index)[0]
            if names[start : start + len(pattern)] == pattern:
                return self._section_data(index)
        return None

    def _section_header(self, index: int) -> tuple[int, ...]:
        return self._unpack(_SECTION, self._section_offset + index * _SECTION.size)

    def _section_data(self, index: int) -> bytes:
        field = self._section_header(index)
        if field[1] == _SHT_NOBITS:
            return b""
        return self._slice(field[4], field[5])

    def has_pvh_entry(self) -> bool:
        """True when QEMU can boot this kernel directly (XEN_ELFNOTE_PHYS32_ENTRY)."""
        for segment in self.segments():
            if segment.kind == PT_NOTE:
                notes = self._slice(segment.offset, segment.file_bytes)
                if _has_note(notes, 8 if segment.align == 8 else 4):
                    return True
        return False


def _has_note(notes: bytes, align: int) -> bool:
    at = 0
    for _ in range(_NOTES_MAXIMUM):
        if at + _NOTE.size > len(notes):
            return False
        name_size, data_size, kind = _NOTE.unpack_from(notes, at)
        name = notes[at + _NOTE.size : at + _NOTE.size + min(name_size, 16)]
        if kind == _PVH_TYPE and name == _PVH_NAME:
            return True
        at += _NOTE.size + _round_up(name_size, align)
        at += _round_up(data_size, align)
    return False


def _round_up(size: int, align: int) -> int:
    return (size + align - 1) // align * align
