# SPDX-License-Identifier: Apache-2.0
"""A machine's audit: what the policy allowed and refused, a JSON object a line."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from innkeeper.model.policy import Operation, Rule
from innkeeper.system.rotate import RotatingFile


class Audit:
    """The audit that one keeper writes.

    :param path: its file.
    """

    def __init__(self, path: Path) -> None:
        self._file = RotatingFile(path, note=_tell_lost_bytes)

    def note(
        self,
        *,
        verdict: str,
        source: str,
        destination: str,
        port: int,
        from_port: int,
        operation: Operation,
        peer_cid: int | None,
        rule: Rule | None,
    ) -> None:
        """Write a decision; one that allows, only where its rule says so.

        :param verdict: "allowed", "denied", "over-quota" or "cut".
        :param source: the machine that asks, or would send; "" for a CID that none has.
        :param peer_cid: the CID of the one of the two that is not the keeper's guest.
        :param rule: that decided; None where none did.
        """
        if verdict == "allowed" and not (rule and rule.log):
            return
        told = {
            "at": round(time.time(), 6),
            "event": "decision",
            "verdict": verdict,
            "source": source,
            "destination": destination,
            "port": port,
            "from_port": from_port,
            "operation": operation,
            "peer_cid": peer_cid,
            "rule": rule.number if rule else None,
            # None: it was added, and stands in no file.
            "line": (rule.line or None) if rule else None,
        }
        self._file.write(msgspec.json.encode(told) + b"\n")

    def note_lost(self, count: int) -> None:
        """Write that so many decisions were not told, as there were too many."""
        if count:
            told = {"at": round(time.time(), 6), "event": "lost", "decisions": count}
            self._file.write(msgspec.json.encode(told) + b"\n")

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()


def _tell_lost_bytes(count: int) -> bytes:
    """The line in place of others that could not be written; of how many is not known."""
    value = {"at": round(time.time(), 6), "event": "lost", "bytes": count}
    return msgspec.json.encode(value) + b"\n"
