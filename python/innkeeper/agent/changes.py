# SPDX-License-Identifier: Apache-2.0
"""Changes in shared folders as messages for the agent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from innkeeper.agent.frames import MESSAGE_LIMIT, encode_frame
from innkeeper.agent.pb import announce_pb2

# A path is at most 4095 bytes; with what is around it, a message keeps its limit.
_FILL_BYTES = MESSAGE_LIMIT - 8192


class ChangeLike(Protocol):
    """A change below a shared folder (`innkeeper.system.tree_watch`)."""

    @property
    def key(self) -> str:
        """Of the share."""

    @property
    def path(self) -> bytes:
        """Below it."""

    @property
    def gone(self) -> bool:
        """It was removed."""


def shares_frame(keys: Iterable[str]) -> bytes:
    """A frame that says which shares are watched on the host."""
    watched = announce_pb2.WatchedShares(keys=keys)
    return encode_frame(announce_pb2.HostMessage(watched=watched).SerializeToString())


def changes_frames(changes: Iterable[ChangeLike]) -> Iterator[bytes]:
    """Frames that tell of changes, as few as their limit allows."""
    message, size = announce_pb2.Changes(), 0
    for change in changes:
        weight = len(change.path) + len(change.key) + 16
        if size + weight > _FILL_BYTES:
            yield _frame(message)
            message, size = announce_pb2.Changes(), 0
        message.changes.add(key=change.key, path=change.path, gone=change.gone)
        size += weight
    if message.changes:
        yield _frame(message)


def _frame(changes: announce_pb2.Changes) -> bytes:
    return encode_frame(announce_pb2.HostMessage(changes=changes).SerializeToString())
