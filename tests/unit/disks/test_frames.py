# SPDX-License-Identifier: Apache-2.0
"""Frames of archives, against the zstd library and by value."""

from __future__ import annotations

import io
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.disks.frames import (
    CHROMEOS_MAGIC,
    FOOTER_BYTES,
    OURS_MAGIC,
    ChromeosMetadata,
    DiskEnd,
    DiskHead,
    FrameError,
    end_frame,
    frame_pieces,
    head_frame,
    read_frame_header,
    read_metadata,
    read_table,
    seek_table,
    skippable,
    table_bytes,
    table_entry,
)

HEAD = DiskHead(size_bytes=8 << 20, data_bytes=1 << 20, name="data", fstype="ext4")


def test_metadata_of_ours_comes_back() -> None:
    assert read_metadata(OURS_MAGIC, head_frame(HEAD)[8:]) == HEAD
    end = DiskEnd(content_digest="ab" * 32, head_digest="cd" * 32)
    assert read_metadata(OURS_MAGIC, end_frame(end)[8:]) == end


def test_metadata_of_chromeos() -> None:
    content = b"CROSVMEXPMETA\0user.crostini.vm_type\x0001\0"
    assert len(content) == 39
    assert read_metadata(CHROMEOS_MAGIC, content) == ChromeosMetadata("termina")
    unknown = content.replace(b"01", b"42")
    assert read_metadata(CHROMEOS_MAGIC, unknown) == ChromeosMetadata("type 42")
    with pytest.raises(FrameError, match="no type of guest"):
        read_metadata(CHROMEOS_MAGIC, content[:30])


def test_metadata_of_others_says_nothing() -> None:
    assert read_metadata(0x184D2A50, b"pzstd") is None
    assert read_metadata(OURS_MAGIC, b"somebody else's") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 2},
        {"size_bytes": 0, "data_bytes": 0},
        {"data_bytes": HEAD.size_bytes + 1},
        {"size_bytes": -1},
        {"chunk_bytes": 1 << 30},
    ],
)
def test_metadata_that_makes_no_sense_is_refused(wrong: dict[str, int]) -> None:
    values: dict[str, Any] = {
        "version": 1,
        "size_bytes": 4096,
        "data_bytes": 0,
        "chunk_bytes": 1 << 20,
    }
    frame = head_frame(DiskHead(**(values | wrong)))
    with pytest.raises(FrameError):
        read_metadata(OURS_MAGIC, frame[8:])


def test_a_table_says_how_much_there_is() -> None:
    frames = [(50, 0), (100, 1000), (200, 24), (30, 0)]
    table = seek_table(b"".join(table_entry(*frame) for frame in frames))
    assert table_bytes(table[-FOOTER_BYTES:]) == len(table)
    found = read_table(table[8:])
    assert found.content_bytes == 1024
    assert found.entries == table_entry(100, 1000) + table_entry(200, 24)
    with pytest.raises(FrameError, match="seek table"):
        read_table(table[9:])


def test_a_table_with_checksums() -> None:
    entries = b"".join(n.to_bytes(4, "little") for n in (100, 1000, 7, 200, 24, 8))
    content = entries + (2).to_bytes(4, "little") + b"\x80" + (0x8F92EAB1).to_bytes(4, "little")
    assert read_table(content).content_bytes == 1024


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65791, 65792, 1 << 20, (1 << 20) + 1])
@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_a_frame_of_the_library_ends_where_it_ends(size: int, checksum: bool, told: bool) -> None:
    compressor = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=told)
    content = (b"innkeeper" * (size // 9 + 1))[:size]
    frame = compressor.compress(content)
    header = read_frame_header(frame[:18])
    assert header.has_checksum is checksum
    # A frame that fits its window says its size in any case.
    assert header.content_bytes in ((size,) if told else (size, None))
    stream = io.BytesIO(frame + b"what follows")
    stream.seek(header.size_bytes)
    pieces = b"".join(frame_pieces(header, stream.read))
    assert frame[: header.size_bytes] + pieces == frame
    assert stream.read() == b"what follows"


@given(st.binary(max_size=64))
def test_any_bytes_are_a_header_or_an_error(data: bytes) -> None:
    for prefix in (b"", b"\x28\xb5\x2f\xfd"):
        try:
            header = read_frame_header((prefix + data)[:18])
        except FrameError:
            continue
        assert header.size_bytes <= 18
        assert header.window_bytes >= 0


@given(st.binary(max_size=200), st.sampled_from([OURS_MAGIC, CHROMEOS_MAGIC]))
def test_any_metadata_is_read_or_refused(data: bytes, magic: int) -> None:
    for mark in (b"", b"INNKEEPERDISK\0", b"INNKEEPEREND\0", b"CROSVMEXPMETA\0"):
        try:
            read_metadata(magic, mark + data)
        except FrameError:
            continue
        try:
            read_table(data)
        except FrameError:
            continue


def test_a_skippable_frame() -> None:
    assert skippable(0x184D2A50, b"abc") == b"\x50\x2a\x4d\x18\x03\0\0\0abc"
