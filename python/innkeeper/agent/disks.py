# SPDX-License-Identifier: Apache-2.0
"""What the agent tells of its disks: how they were found, how full they are.

A guest that lies harms itself alone: serial numbers that its host did not give are
dropped by who knows them, numbers are bounded here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from innkeeper.agent.pb import announce_pb2
from innkeeper.agent.text import clean_text
from innkeeper.errors import ProtocolError
from innkeeper.model.disk import DiskCondition

_T = TypeVar("_T")

# As announce.proto says.
_DISKS_MAXIMUM = 16
_SERIAL_MAXIMUM = 20

_CONDITIONS: dict[int, DiskCondition] = {
    announce_pb2.DISK_CONDITION_GOOD: "GOOD",
    announce_pb2.DISK_CONDITION_MADE: "MADE",
    announce_pb2.DISK_CONDITION_PARTIAL_DATA_LOSS: "PARTIAL_DATA_LOSS",
}


@dataclass(frozen=True)
class DiskReport:
    """How a disk was found.

    :ivar detail: what was done about it, on one line.
    """

    serial: str
    condition: DiskCondition
    detail: str


@dataclass(frozen=True)
class DiskSpace:
    """How full a disk is, for programs that are not root's."""

    serial: str
    total_bytes: int
    free_bytes: int


def parse_reports(messages: Iterable[announce_pb2.DiskReport]) -> tuple[DiskReport, ...]:
    """How the disks were found.

    :raise ProtocolError: there are too many, or one has no condition that is known.
    """
    found = []
    for message in _bounded(messages):
        condition = _CONDITIONS.get(message.condition)
        if condition is None:
            raise ProtocolError("the agent told of a disk in no condition", stage="announce")
        serial = clean_text(message.serial, _SERIAL_MAXIMUM)
        found.append(DiskReport(serial, condition, clean_text(message.detail)))
    return tuple(found)


def parse_spaces(messages: Iterable[announce_pb2.DiskSpace]) -> tuple[DiskSpace, ...]:
    """How full the disks are.

    :raise ProtocolError: there are too many, or one has more space than it is large.
    """
    found = []
    for message in _bounded(messages):
        if message.free_bytes > message.total_bytes:
            raise ProtocolError("the agent told of more space than there is", stage="announce")
        serial = clean_text(message.serial, _SERIAL_MAXIMUM)
        found.append(DiskSpace(serial, message.total_bytes, message.free_bytes))
    return tuple(found)


def _bounded(messages: Iterable[_T]) -> list[_T]:
    """All of them."""
    listed = list(messages)
    if len(listed) > _DISKS_MAXIMUM:
        raise ProtocolError("the agent told of too many disks", stage="announce")
    return listed
