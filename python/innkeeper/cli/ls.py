# SPDX-License-Identifier: Apache-2.0
"""`inn ls` and `inn inspect`: read from the disk, without asking anybody."""

from __future__ import annotations

import time

import click
import msgspec

from innkeeper.cli.output import FORMAT, ago, columns, print_json
from innkeeper.errors import UnknownName
from innkeeper.model.disk import DiskState
from innkeeper.model.machine import Machine
from innkeeper.model.record import LIVE_STATES, Record
from innkeeper.model.sizes import format_size
from innkeeper.registry.layout import Layout, host_layout
from innkeeper.registry.listing import Entry, list_machines
from innkeeper.registry.machines import load_machine, read_record
from innkeeper.registry.records import read_state
from innkeeper.system.files import folder_size_bytes


@click.command()
@click.option("-r", "--running", is_flag=True, help="Only guests that run.")
@click.option("-q", "--quiet", is_flag=True, help="Only names.")
@click.option(
    "-s", "--sizes", is_flag=True, help="What each machine takes on the disk, and the total."
)
@FORMAT
def ls(running: bool, quiet: bool, sizes: bool, output_format: str) -> None:
    """List machines and running guests, with their states.

    Read from the disk; nobody is asked. Sizes are those of the blocks that the
    machine's folder takes, as `du` counts them.
    """
    layout = host_layout()
    rows = [_row(entry) for entry in list_machines(layout)]
    rows = [row for row in rows if not running or row["state"] in LIVE_STATES]
    if sizes:
        for row in rows:
            row["size_bytes"] = folder_size_bytes(layout.machine(str(row["name"])).path)
    if output_format == "json":
        total = {"total_size_bytes": _total(rows)} if sizes else {}
        print_json({"machines": rows, **total})
    elif quiet:
        click.echo("\n".join(str(row["name"]) for row in rows), nl=bool(rows))
    else:
        click.echo("\n".join([*_table(rows, sizes=sizes), *(_sum(rows) if sizes else ())]))


def _row(entry: Entry) -> dict[str, object]:
    record, machine = entry.record, entry.machine
    if record is None:
        return {"name": entry.name, "state": "damaged", "reason": entry.fault}
    row: dict[str, object] = {
        "name": entry.name,
        "state": record.state,
        "changed_at": record.changed_at,
        "reason": record.reason,
        "stays": machine is not None,
    }
    if machine is not None:
        row |= {"cpus": machine.cpus, "memory_bytes": machine.memory_bytes, "image": machine.image}
    return row


def _total(rows: list[dict[str, object]]) -> int:
    return sum(size for row in rows if isinstance(size := row["size_bytes"], int))


def _sum(rows: list[dict[str, object]]) -> list[str]:
    """The last lines: how many in which state, and the size of all."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[str(row["state"])] = counts.get(str(row["state"]), 0) + 1
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    told = f" ({states})" if states else ""
    return [f"Total: {len(rows)}{told}, {format_size(_total(rows))} on the disk"]


def _table(rows: list[dict[str, object]], *, sizes: bool) -> list[str]:
    heads = ("NAME", "STATE", "SINCE", "CPUS", "MEMORY", *(("SIZE",) * sizes), "IMAGE", "REASON")
    lines = [heads]
    now = time.time()
    for row in rows:
        memory, size = row.get("memory_bytes"), row.get("size_bytes")
        lines.append(
            (
                str(row["name"]),
                str(row["state"]),
                ago(row.get("changed_at"), now),
                str(row.get("cpus", "")),
                format_size(memory) if isinstance(memory, int) else "",
                *((format_size(size),) if isinstance(size, int) else ()),
                str(row.get("image", "")),
                str(row.get("reason", "")),
            )
        )
    return columns(lines)


@click.command()
@FORMAT
@click.argument("name")
def inspect(name: str, output_format: str) -> None:
    """Show everything that is known of a machine: definition, state, stages, last failure."""
    layout = host_layout()
    record = _present(layout, read_record(layout, name))
    try:
        machine: Machine | None = load_machine(layout, name)
    except UnknownName:
        machine = None  # a guest of `inn run`
    value: dict[str, object] = {
        "machine": msgspec.to_builtins(machine),
        "record": msgspec.to_builtins(record),
        "sockets": {"vsock": str(layout.guest(name).vsock), "agent": str(layout.guest(name).agent)},
        "folder": str(layout.machine(name).path) if machine else None,
    }
    if output_format == "json":
        print_json(value)
    else:
        click.echo("\n".join(_lines(record, machine, layout)))


def _present(layout: Layout, record: Record) -> Record:
    """The record with what changes too often for a machine's own file."""
    live = read_state(layout.guest(record.name)) if record.state in LIVE_STATES else None
    if live is None:
        return record
    return msgspec.structs.replace(record, forwards=live.forwards, disks=live.disks)


def _disk(state: DiskState) -> str:
    """How a disk was found and how full it is."""
    told = [state.path if state.name == state.path else f"{state.name} at {state.path}"]
    if state.condition not in (None, "GOOD"):
        told.append(" ".join(filter(None, (state.condition, state.detail))))
    if state.space is not None:
        free, total = format_size(state.free_bytes), format_size(state.total_bytes)
        told.append(f"{state.space}, {free} of {total} free")
    return "; ".join(told)


def _network_now(record: Record) -> list[str]:
    lines = []
    network = record.network
    if network is not None:
        lines.append(f"  address    {network.address or 'known to the guest alone'}")
        lines.append(f"  mac        {network.mac}")
    if network is not None and network.interface:
        lines.append(f"  interface  {network.interface} of this host")
    return lines + [
        f"  forwarded  localhost:{here} leads to its port {port}"
        for port, here in sorted(record.forwards.items())
    ]


def _memory_now(record: Record) -> list[str]:
    if record.memory_bytes is None:
        return []
    return [f"  memory now {format_size(record.memory_bytes)}"]


def _shares_now(record: Record) -> list[str]:
    report = record.shares
    if report is None or not report.shares:
        return []
    lines = [f"  share      {share}" for share in report.shares]
    lines.append(f"  shared by  {report.reason}, cache {report.cache}")
    return lines + [f"  lost       {report.fault}"] * bool(report.fault)


def _lines(record: Record, machine: Machine | None, layout: Layout) -> list[str]:
    told = f" ({record.reason})" if record.reason else ""
    lines = [f"{record.name}: {record.state} for {ago(record.changed_at, time.time())}{told}"]
    if machine is not None:
        lines += [
            f"  image      {machine.image}",
            f"  size       {machine.cpus} CPU, {format_size(machine.memory_bytes)} memory",
            f"  network    {machine.network}",
            *(f"  published  {port}" for port in machine.ports),
            *(f"  disk       {use}" for use in machine.disks if record.state not in LIVE_STATES),
            f"  restart    {machine.restart}",
            f"  folder     {layout.machine(record.name).path}",
            *(f"  share      {use}" for use in machine.shares if record.state not in LIVE_STATES),
        ]
    if record.state in LIVE_STATES:
        lines += [
            *_memory_now(record),
            *_network_now(record),
            *(f"  disk       {_disk(state)}" for state in record.disks),
            f"  processes  keeper {record.keeper_pid}, QEMU {record.qemu_pid}",
            f"  doors      {layout.guest(record.name).vsock}",
            *_shares_now(record),
        ]
    if record.rung is not None:
        lines.append(f"  ended by   {record.rung}")
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in record.stages.items())
    if stages:
        lines.append(f"  last start {stages}")
    lines.append(f"  starts     {record.starts}, {record.restarts} by its restart policy")
    if record.error is not None:
        lines.append(f"  last error {record.error.get('brief')}")
        lines += [f"    | {line}" for line in record.error.get("evidence", ())]
    return lines
