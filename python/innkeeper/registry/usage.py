# SPDX-License-Identifier: Apache-2.0
"""What the running guests take of this host: samples from records and /proc, and rows of two.

No keeper is asked. A guest is its keeper and its QEMU: the keeper carries its
vsock device, and shares the guest's memory with QEMU.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Literal

import msgspec

from innkeeper.model.record import LIVE_STATES, Record, State
from innkeeper.registry.layout import Layout
from innkeeper.registry.listing import list_machines
from innkeeper.registry.records import read_state
from innkeeper.system.usage import ProcessUsage, process_usage, since_boot_s

SortKey = Literal["cpu", "memory", "io", "name"]


class GuestSample(msgspec.Struct, frozen=True, kw_only=True):
    """One guest at one moment.

    :ivar guest_memory_bytes: what it has now, by its balloon; None before it has said so.
    :ivar configured_memory_bytes: what its machine says; None for a guest of `inn run`.
    :ivar qemu: None while there is none: before its start, or between two lives.
    """

    name: str
    state: State
    guest_memory_bytes: int | None = None
    configured_memory_bytes: int | None = None
    keeper: ProcessUsage | None = None
    qemu: ProcessUsage | None = None


class Sample(msgspec.Struct, frozen=True):
    """All guests at one moment; `at_s` is since the host's boot."""

    at_s: float
    guests: Mapping[str, GuestSample]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What one guest takes.

    :ivar cpu_percent: 100 is one CPU of the host; None, as the rates, where there is no
        earlier sample of the same guest.
    :ivar memory_bytes: the host's memory that its processes hold.
    :ivar read_bytes_per_s: from the host's disks; `written_bytes_per_s`, to them.
    :ivar uptime_s: the age of its QEMU; a restart begins anew.
    """

    name: str
    state: State
    cpu_percent: float | None = None
    memory_bytes: int | None = None
    guest_memory_bytes: int | None = None
    configured_memory_bytes: int | None = None
    read_bytes_per_s: float | None = None
    written_bytes_per_s: float | None = None
    uptime_s: float | None = None
    keeper_pid: int | None = None
    qemu_pid: int | None = None


def take_sample(layout: Layout, names: Collection[str] = ()) -> Sample:
    """All running guests now, or those of `names`; one that comes or goes just now may lack."""
    guests = {}
    for entry in list_machines(layout):
        if entry.record is None or entry.record.state not in LIVE_STATES:
            continue
        if names and entry.name not in names:
            continue
        # The runtime folder's record is newer where the machine's cannot be written.
        record = read_state(layout.guest(entry.name)) or entry.record
        if record.state not in LIVE_STATES:
            continue
        configured = entry.machine.memory_bytes if entry.machine else None
        guests[entry.name] = _sample(entry.name, record, configured)
    return Sample(since_boot_s(), guests)


def wait_until(at_s: float) -> None:
    """Sleep until a time since the host's boot; at once where that is over."""
    time.sleep(max(0.0, at_s - since_boot_s()))


def _sample(name: str, record: Record, configured: int | None) -> GuestSample:
    keeper = process_usage(record.keeper_pid) if record.keeper_pid else None
    qemu = process_usage(record.qemu_pid) if record.qemu_pid else None
    if qemu is not None and qemu.parent_pid != record.keeper_pid:
        # QEMU has ended, and its pid is another's by now.
        qemu = None
    return GuestSample(
        name=name,
        state=record.state,
        guest_memory_bytes=record.memory_bytes,
        configured_memory_bytes=configured,
        keeper=keeper,
        qemu=qemu,
    )


def usage_rows(before: Sample, after: Sample, *, sort: SortKey = "cpu") -> list[Row]:
    """What each guest of the second sample took between the two, most first."""
    seconds = after.at_s - before.at_s
    rows = [
        _row(before.guests.get(name), guest, seconds=seconds, now_s=after.at_s)
        for name, guest in after.guests.items()
    ]
    rows.sort(key=lambda row: row.name)
    if sort != "name":
        rows.sort(key=lambda row: _amount(row, sort), reverse=True)
    return rows


def _row(before: GuestSample | None, guest: GuestSample, *, seconds: float, now_s: float) -> Row:
    processes = [process for process in (guest.keeper, guest.qemu) if process is not None]
    memory = [process.memory_bytes for process in processes if process.memory_bytes is not None]
    cpu = _rate(before, guest, "cpu_s", seconds)
    return Row(
        name=guest.name,
        state=guest.state,
        cpu_percent=None if cpu is None else 100 * cpu,
        memory_bytes=sum(memory) if memory else None,
        guest_memory_bytes=guest.guest_memory_bytes,
        configured_memory_bytes=guest.configured_memory_bytes,
        read_bytes_per_s=_rate(before, guest, "read_bytes", seconds),
        written_bytes_per_s=_rate(before, guest, "written_bytes", seconds),
        uptime_s=None if guest.qemu is None else max(0.0, now_s - guest.qemu.started_s),
        keeper_pid=None if guest.keeper is None else guest.keeper.pid,
        qemu_pid=None if guest.qemu is None else guest.qemu.pid,
    )


def _rate(
    before: GuestSample | None, guest: GuestSample, counter: str, seconds: float
) -> float | None:
    """How fast a counter of the guest's processes rose; None where nothing can be compared."""
    if before is None or seconds <= 0:
        return None
    rises = [
        rise
        for old, new in ((before.keeper, guest.keeper), (before.qemu, guest.qemu))
        if (rise := _rise(old, new, counter)) is not None
    ]
    return sum(rises) / seconds if rises else None


def _rise(old: ProcessUsage | None, new: ProcessUsage | None, counter: str) -> float | None:
    if old is None or new is None or (old.pid, old.started_s) != (new.pid, new.started_s):
        return None
    earlier, later = getattr(old, counter), getattr(new, counter)
    # A counter of bytes falls where written pages were dropped before they reached a disk.
    return None if earlier is None or later is None else max(0.0, later - earlier)


def _amount(row: Row, sort: SortKey) -> float:
    if sort == "cpu":
        return row.cpu_percent or 0.0
    if sort == "memory":
        return row.memory_bytes or 0
    return (row.read_bytes_per_s or 0.0) + (row.written_bytes_per_s or 0.0)
