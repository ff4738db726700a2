# SPDX-License-Identifier: Apache-2.0
"""The framing, by value and with hostile bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.agent.frames import FrameDecoder, encode_frame
from innkeeper.errors import ProtocolError


def test_a_frame_is_length_and_payload() -> None:
    assert encode_frame(b"abc") == b"\x03\0\0\0abc"
    assert encode_frame(b"") == b"\0\0\0\0"


def test_encoding_refuses_oversize() -> None:
    with pytest.raises(ProtocolError):
        encode_frame(bytes(11), max_bytes=10)


@given(st.lists(st.binary(max_size=300), max_size=20), st.data())
def test_cuts_do_not_matter(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(encode_frame(payload) for payload in payloads)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=10).map(sorted))
    decoder = FrameDecoder(300)
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += decoder.feed(stream[start:end])
    assert found == payloads
    assert decoder.buffered == 0


def test_oversize_is_refused_by_its_header_alone() -> None:
    decoder = FrameDecoder(100)
    assert list(decoder.feed(b"\x65\0\0")) == []
    with pytest.raises(ProtocolError, match="101 bytes"):
        list(decoder.feed(b"\0"))
    with pytest.raises(ProtocolError):  # and stays broken
        list(decoder.feed(b"\0" * 10))


def test_frames_before_an_oversize_one_are_given() -> None:
    frames = FrameDecoder(4).feed(encode_frame(b"good") + b"\xff\xff\xff\xff")
    assert next(frames) == b"good"
    with pytest.raises(ProtocolError):
        next(frames)


@given(st.binary(max_size=2000))
def test_memory_is_bounded(data: bytes) -> None:
    decoder = FrameDecoder(64)
    try:
        for start in range(0, len(data), 7):
            assert all(len(payload) <= 64 for payload in decoder.feed(data[start : start + 7]))
            assert decoder.buffered < 64 + 4
    except ProtocolError:
        pass
