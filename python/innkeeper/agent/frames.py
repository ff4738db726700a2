# SPDX-License-Identifier: Apache-2.0
"""The framing of the guest channel: a u32 little-endian length, then that many bytes.

Without any I/O: sessions, the announcement and tests feed bytes in and get
payloads out. The counterpart in the guest is `crates/wire`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from innkeeper.errors import ProtocolError

_HEADER = struct.Struct("<I")

# The first message of a session carries argv and the environment.
SETUP_LIMIT = 1 << 20
# Every other message; upstream peers send at most 4096 bytes.
MESSAGE_LIMIT = 64 << 10
# Data in one message. Upstream refuses messages over 4096 bytes.
DATA_LIMIT = 4000


def encode_frame(payload: bytes, *, max_bytes: int = MESSAGE_LIMIT) -> bytes:
    """The payload as one frame.

    :raise ProtocolError: the payload is over `max_bytes`.
    """
    if len(payload) > max_bytes:
        raise ProtocolError(
            f"a message of {len(payload)} bytes is over the limit of {max_bytes}", stage="agent"
        )
    return _HEADER.pack(len(payload)) + payload


class FrameDecoder:
    """Cuts a byte stream into payloads.

    Memory is bounded by one frame and one `feed`: a length field over the limit
    is refused as soon as it is seen, and nothing is reserved on its word.
    After a ProtocolError the stream has no next frame; the decoder stays broken.
    """

    def __init__(self, max_bytes: int = MESSAGE_LIMIT) -> None:
        self._max_bytes = max_bytes
        self._rest = b""

    @property
    def buffered(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._rest)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The payloads that `data` completes; the iterator must be used up.

        :raise ProtocolError: a length field is over the limit.
        """
        buffer = self._rest + data if self._rest else data
        position, end = 0, len(buffer)
        try:
            while end - position >= 4:
                (length,) = _HEADER.unpack_from(buffer, position)
                if length > self._max_bytes:
                    raise ProtocolError(
                        f"the guest announced a message of {length} bytes;"
                        f" the limit is {self._max_bytes}",
                        stage="agent",
                    )
                if end - position - 4 < length:
                    break
                start, position = position + 4, position + 4 + length
                yield buffer[start:position]
        finally:
            self._rest = buffer[position:]
