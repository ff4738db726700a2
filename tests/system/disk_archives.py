# SPDX-License-Identifier: Apache-2.0
"""Disks and archives for tests, some of them made as others make them."""

from __future__ import annotations

import random
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zstandard

from innkeeper.disks.frames import DiskHead, skippable
from innkeeper.disks.moving import Moving
from innkeeper.disks.packing import pack
from innkeeper.disks.reading import Content, Given, read_disk
from innkeeper.disks.sink import Sink

MIB = 1 << 20
CHROMEOS_CHUNK = 128 * 1024
CHROMEOS_METADATA = b"CROSVMEXPMETA\0user.crostini.vm_type\x0001\0"


def disk_content(size: int = 5 * MIB + 4096, seed: int = 1) -> bytes:
    """Something with an ext4 magic, data, text and holes."""
    made = random.Random(seed)
    data = bytearray(size)
    data[0x438:0x43A] = b"\x53\xef"
    for _ in range(12):
        at = made.randrange(0, max(1, size - 70_000))
        length = made.randrange(1, 60_000)
        piece = made.randbytes(length) if made.random() < 0.5 else b"text " * (length // 5)
        data[at : at + len(piece)] = piece
    data[0x438:0x43A] = b"\x53\xef"
    return bytes(data[:size])


def write_disk(path: Path, content: bytes) -> Path:
    """The content as a file whose blocks of zeros are holes."""
    with path.open("wb") as file:
        for at in range(0, len(content), 4096):
            if any(block := content[at : at + 4096]):
                file.seek(at)
                file.write(block)
        file.truncate(len(content))
    return path


def ours(path: Path, **values: str | bool) -> bytes:
    """Our archive of a disk."""
    out: list[bytes] = []
    size = path.stat().st_size
    with path.open("rb") as file:
        head = DiskHead(size_bytes=size, data_bytes=size, **values)  # type: ignore[arg-type]
        pack(file.fileno(), head, out.append, moving=Moving("test"))
    return b"".join(out)


def chromeos(content: bytes, *, metadata_first: bool = True, table: bool = True) -> bytes:
    """As ChromeOS makes it: frames of 128 KiB, level 4, a metadata frame, a seek table."""
    compressor = zstandard.ZstdCompressor(level=4)
    frames = [
        (compressor.compress(part), len(part))
        for at in range(0, len(content), CHROMEOS_CHUNK)
        for part in [content[at : at + CHROMEOS_CHUNK]]
    ]
    metadata = skippable(0x184D2A55, CHROMEOS_METADATA)
    listed = [(metadata, 0), *frames] if metadata_first else [*frames, (metadata, 0)]
    entries = b"".join(struct.pack("<II", len(frame), size) for frame, size in listed)
    footer = struct.pack("<IBI", len(listed), 0, 0x8F92EAB1)
    end = skippable(0x184D2A5E, entries + footer) if table else b""
    return b"".join(frame for frame, _ in listed) + end


def zipped(path: Path, content: bytes, name: str = "vm_disk.img") -> Path:
    """A zip with one file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return path


@contextmanager
def sink_in(folder: Path, limit: int = 64 * MIB, *, any_content: bool = False) -> Iterator[Sink]:
    """A sink for `folder`/out."""
    with (folder / "out").open("xb") as file:
        yield Sink(file.fileno(), folder / "out", limit_bytes=limit, any_content=any_content)


def imported(path: Path, folder: Path, limit: int | None = None) -> tuple[Content, Path]:
    """What becomes of an archive."""
    with sink_in(folder) as sink:
        content = read_disk(Given(path, limit_bytes=limit), sink, moving=Moving("test"))
    return content, folder / "out"
