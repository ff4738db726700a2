# SPDX-License-Identifier: Apache-2.0
"""The keeper's record of its guest: what cannot be written now is written as soon as it can be."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from innkeeper.errors import InnError, OutOfSpace
from innkeeper.model.record import Record
from innkeeper.registry.layout import Layout
from innkeeper.registry.names import Claim
from innkeeper.registry.records import write_record

# A change of these is brought to the machine at once; the rest goes along.
_DURABLE = {"state", "rung", "memory_bytes"}
# So soon a disk that was full is tried again.
_AGAIN_S = 1.0
# What is left of the evidence where the whole of it does not fit any more.
_SHORT_LINES = 4
_SHORT_CHARS = 200


class Ledger:
    """Writes a record into the guest's runtime folder, and into its machine's.

    :ivar record: the last one.
    :param stays: there is a machine; a guest of `inn run` has none, whatever its name.
    """

    def __init__(self, layout: Layout, held: Claim, record: Record, *, stays: bool) -> None:
        self.record = record
        self._layout = layout
        self._held = held
        self._stays = stays
        self._saved = True
        self._complained = ""
        self._again: asyncio.TimerHandle | None = None

    def write(self, *, must: bool = False, **values: Any) -> None:
        """Change the record; what matters is also brought to the machine.

        :param must: a failure is raised; else the guest goes on and it is tried again.
        :raise InnError: with `must`, the record cannot be kept.
        """
        self.record = msgspec.structs.replace(
            self.record, revision=self.record.revision + 1, **values
        )
        try:
            self._held.write_state(self.record)
        except InnError as error:
            if must:
                raise
            self._complain(error)
        if self._stays and values.keys() & _DURABLE:
            self._saved = False
            self._save(must=must)

    def close(self) -> None:
        """A last try; where it fails, the runtime folder keeps the record. Idempotent."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if not self._saved:
            self._save(last=True)
            self._held.keeps_state = not self._saved

    def _save(self, *, must: bool = False, last: bool = False) -> None:
        self._again = None
        try:
            try:
                write_record(self._layout, self.record)
            except OutOfSpace:
                write_record(self._layout, _shorten(self.record))
        except InnError as error:
            if must:
                raise
            self._complain(error)
            if not last:
                loop = asyncio.get_running_loop()
                self._again = loop.call_later(_AGAIN_S, self._save)
            return
        self._saved = True
        self._complained = ""

    def _complain(self, error: InnError) -> None:
        """Say it once, on the way to the keeper's log."""
        if error.brief != self._complained:
            from innkeeper.keeper.say import say

            self._complained = error.brief
            say(f"the record is not written: {error.brief}")


def _shorten(record: Record) -> Record:
    """The same with less evidence, so that it fits into the room that it had."""
    if record.error is None:
        return record
    lines = [str(line)[:_SHORT_CHARS] for line in record.error.get("evidence", ())]
    return msgspec.structs.replace(
        record, error={**record.error, "evidence": lines[-_SHORT_LINES:]}
    )
