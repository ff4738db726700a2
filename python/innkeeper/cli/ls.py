# SPDX-License-Identifier: Apache-2.0
"""`inn ls` and `inn inspect`: read from the disk, without asking anybody."""

from __future__ import annotations

import time

import click
import msgspec

from innkeeper.cli.options import FORMAT
from innkeeper.cli.output import print_json
from innkeeper.errors import InnError, UnknownName
from innkeeper.model.machine import Machine
from innkeeper.model.record import LIVE_STATES, Record
from innkeeper.model.sizes import format_size
from innkeeper.registry.layout import Layout, host_layout
from innkeeper.registry.machines import known_names, load_machine, read_record


@click.command()
@click.option("-r", "--running", is_flag=True, help="Only guests that run.")
@click.option("-q", "--quiet", is_flag=True, help="Only names.")
@FORMAT
def ls(running: bool, quiet: bool, output_format: str) -> None:
    """List machines and running guests, with their states."""
    layout = host_layout()
    rows = [_row(layout, name) for name in known_names(layout)]
    rows = [row for row in rows if not running or row["state"] in LIVE_STATES]
    if output_format == "json":
        print_json({"machines": rows})
    elif quiet:
        click.echo("\n".join(str(row["name"]) for row in rows), nl=bool(rows))
    else:
        click.echo(_table(rows))


def _row(layout: Layout, name: str) -> dict[str, object]:
    try:
        record = read_record(layout, name)
        machine = load_machine(layout, name) if layout.machine(name).path.is_dir() else None
    except InnError as error:
        return {"name": name, "state": "damaged", "reason": error.brief}
    row: dict[str, object] = {
        "name": name,
        "state": record.state,
        "changed_at": record.changed_at,
        "reason": record.reason,
        "stays": machine is not None,
    }
    if machine is not None:
        row |= {"cpus": machine.cpus, "memory_bytes": machine.memory_bytes, "image": machine.image}
    return row


def _table(rows: list[dict[str, object]]) -> str:
    lines = [("NAME", "STATE", "SINCE", "CPUS", "MEMORY", "IMAGE", "REASON")]
    for row in rows:
        memory = row.get("memory_bytes")
        lines.append(
            (
                str(row["name"]),
                str(row["state"]),
                _ago(row.get("changed_at")),
                str(row.get("cpus", "")),
                format_size(memory) if isinstance(memory, int) else "",
                str(row.get("image", "")),
                str(row.get("reason", "")),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _ago(changed_at: object) -> str:
    if not isinstance(changed_at, float):
        return ""
    seconds = max(0, int(time.time() - changed_at))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


@click.command()
@FORMAT
@click.argument("name")
def inspect(name: str, output_format: str) -> None:
    """Show everything that is known of a machine: definition, state, stages, last failure."""
    layout = host_layout()
    record = read_record(layout, name)
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


def _lines(record: Record, machine: Machine | None, layout: Layout) -> list[str]:
    told = f" ({record.reason})" if record.reason else ""
    lines = [f"{record.name}: {record.state} for {_ago(record.changed_at)}{told}"]
    if machine is not None:
        lines += [
            f"  image      {machine.image}",
            f"  size       {machine.cpus} CPU, {format_size(machine.memory_bytes)} memory",
            f"  network    {machine.network}",
            *(f"  published  {port}" for port in machine.ports),
            f"  restart    {machine.restart}",
            f"  folder     {layout.machine(record.name).path}",
        ]
    if record.state in LIVE_STATES:
        lines += [
            f"  processes  keeper {record.keeper_pid}, QEMU {record.qemu_pid}",
            f"  doors      {layout.guest(record.name).vsock}",
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
