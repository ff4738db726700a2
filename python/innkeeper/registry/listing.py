# SPDX-License-Identifier: Apache-2.0
"""All machines and guests at once, for `inn ls`: two files a machine, and nobody is asked.

The same as `read_record` and `load_machine` for each name, which are still
asked where something is amiss: the words for that stand there. With 200
machines, `Path` objects alone cost more than reading the files.
"""

from __future__ import annotations

import contextlib
import os

import msgspec

from innkeeper.errors import InnError
from innkeeper.model.machine import Machine
from innkeeper.model.record import LIVE_STATES, Record, true_record
from innkeeper.registry.layout import DEFINITION, LOCK, RECORD, Layout
from innkeeper.registry.machines import load_machine, read_record
from innkeeper.registry.records import decode_record, read_state
from innkeeper.system.files import read_whole
from innkeeper.system.locks import is_locked

_MACHINES = msgspec.json.Decoder(Machine)


class Entry(msgspec.Struct, frozen=True):
    """One machine, or one guest that nobody keeps.

    :ivar record: what is known of its life; None where it is damaged.
    :ivar machine: its definition, where it stays.
    :ivar fault: what is damaged.
    """

    name: str
    record: Record | None = None
    machine: Machine | None = None
    fault: str = ""


def list_machines(layout: Layout) -> list[Entry]:
    """Every machine and every running guest, sorted by name."""
    machines = str(layout.machines)
    staying = _folders(machines)
    present = set(_folders(layout.runtime_dir))
    running = {name for name in present if is_locked(f"{layout.runtime_dir}/{name}/{LOCK}")}
    entries = [
        # A dead guest's folder may know more than the record.
        _read_slowly(layout, name)
        if name in present - running
        else _read_machine(layout, f"{machines}/{name}/", name, lives=name in running)
        for name in staying
    ]
    entries += [
        Entry(name, record)
        for name in running.difference(staying)
        # One without a readable state comes or goes just now.
        if (record := read_state(layout.guest(name))) is not None
    ]
    return sorted(entries, key=lambda entry: entry.name)


def _folders(path: str) -> list[str]:
    with contextlib.suppress(OSError), os.scandir(path) as found:
        return [item.name for item in found if item.name[0] != "." and item.is_dir()]
    return []


def _read_machine(layout: Layout, folder: str, name: str, *, lives: bool) -> Entry:
    try:
        record = decode_record(read_whole(folder + RECORD))
        machine = _MACHINES.decode(read_whole(folder + DEFINITION))
    except (OSError, ValueError, RecursionError, InnError):
        return _read_slowly(layout, name)
    if record.state in LIVE_STATES and not lives:
        return _read_slowly(layout, name)
    return Entry(name, true_record(record, keeper_lives=lives), machine)


def _read_slowly(layout: Layout, name: str) -> Entry:
    try:
        return Entry(name, read_record(layout, name), load_machine(layout, name))
    except InnError as error:
        return Entry(name, fault=error.brief)
