# SPDX-License-Identifier: Apache-2.0
"""A record on disk: in the machine's folder, and beside it in the guest's runtime folder.

Both are written by the guest's keeper alone. Where the machine's folder could not
be written, or the keeper was killed in between, the other file knows more.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

from innkeeper.errors import HostError, InnError
from innkeeper.model.record import RECORD_VERSION, Record
from innkeeper.registry.layout import GuestFolder, Layout
from innkeeper.system.files import read_whole
from innkeeper.system.reserve import write_reserved

_DECODER = msgspec.json.Decoder(Record)


def decode_record(data: bytes) -> Record:
    """A record from a file's content.

    :raise ValueError: it is none, or of a later version.
    """
    try:
        record = _DECODER.decode(data)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc
    if record.version != RECORD_VERSION:
        raise ValueError(f"version {record.version}; this innkeeper knows {RECORD_VERSION}")
    return record


def load_record(path: Path) -> Record:
    """The record in a file.

    :raise FileNotFoundError: there is none.
    :raise InnError: it is damaged; it is named and left as it is.
    """
    try:
        return decode_record(read_whole(os.fspath(path)))
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise HostError(f"cannot read {path}: {exc.strerror}", stage="machine") from exc
    except ValueError as exc:  # msgspec's errors, too
        raise InnError(
            f"the file {path} is damaged",
            stage="machine",
            evidence=(str(exc),),
            fix="mend or remove it; the next start writes it anew",
        ) from exc


def read_state(folder: GuestFolder) -> Record | None:
    """The state file of a guest; None where it is missing or unreadable."""
    with contextlib.suppress(OSError, InnError):
        return load_record(folder.state)
    return None


def newest_record(layout: Layout, name: str) -> Record:
    """What is known last of a machine's life.

    :raise FileNotFoundError: it has no record.
    :raise InnError: that is damaged.
    """
    record = load_record(layout.machine(name).record)
    state = read_state(layout.guest(name))
    if state is not None and state.name == name and state.revision > record.revision:
        return state
    return record


def write_record(layout: Layout, record: Record) -> None:
    """Replace a machine's record as a whole; a guest without a machine has none.

    :raise OutOfSpace: the disk is full, which only the first write of a machine can meet.
    :raise HostError: the folder cannot be written.
    """
    folder = layout.machine(record.name)
    if folder.path.is_dir():
        write_reserved(folder.record, msgspec.json.encode(record))


def settle(layout: Layout, name: str) -> bool:
    """Bring what a dead guest's state file knows to its machine; False where that failed."""
    # A record that is missing or damaged is left as it is.
    with contextlib.suppress(OSError, InnError):
        newest = newest_record(layout, name)
        if newest != load_record(layout.machine(name).record):
            try:
                write_record(layout, newest)
            except InnError:
                return False
    return True
