# SPDX-License-Identifier: Apache-2.0
"""`inn up`, `down`, `ps`: several machines from one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from innkeeper.cli.lifecycle import STOP_TIMEOUT, stop_seconds
from innkeeper.cli.output import FORMAT, Progress, print_json
from innkeeper.errors import InnError, UsageError
from innkeeper.keeper.topologies import bring_down, bring_up, only_topology
from innkeeper.model.inet import inet_addresses
from innkeeper.model.topology import Service, Topology
from innkeeper.registry.layout import Layout, host_layout
from innkeeper.registry.machines import load_machine, read_record
from innkeeper.registry.topologies import Stored, load_stored, topology_names
from innkeeper.system.interrupt import interruptible
from innkeeper.system.ports import target_listens

DEFAULT_FILE = "topology.toml"


@click.command()
@click.argument("file", default=DEFAULT_FILE)
def up(file: str) -> None:
    """Bring up the machines of a topology FILE [topology.toml].

    They are started in the order of their `after`, those that do not wait for
    each other at the same time. What runs already is left alone; its policy is
    renewed. A start that fails takes down again what this command started.
    """
    stored = read_topology(file)
    with interruptible():
        topology = bring_up(host_layout(), stored, tell=Progress().line)
    click.echo(topology.name)


@click.command()
@STOP_TIMEOUT
@click.option("--keep", is_flag=True, help="Only stop the machines; leave them for the next up.")
@click.argument("name", required=False)
def down(name: str | None, timeout: str, keep: bool) -> None:
    """Bring a topology down: stop its machines, the last started first, and remove them.

    NAME is a topology's name or file; it may be left out where only one is up.
    Disks stay.
    """
    layout = host_layout()
    chosen = _chosen(layout, name)
    with interruptible():
        bring_down(layout, chosen, keep=keep, timeout_s=stop_seconds(timeout), tell=Progress().line)
    click.echo(chosen)


@click.command()
@FORMAT
@click.argument("name", required=False)
def ps(name: str | None, output_format: str) -> None:
    """Show the topologies that are up as trees: what waits for what, and its state."""
    layout = host_layout()
    names = (_chosen(layout, name),) if name is not None else topology_names(layout)
    found = [load_stored(layout, one).parsed() for one in names]
    if output_format == "json":
        print_json({"topologies": [_as_dict(layout, topology) for topology in found]})
        return
    for topology in found:
        lines = tree(topology, _states(layout, topology))
        lines += [f"   {service_line(one)}" for one in topology.host_services().values()]
        click.echo("\n".join(lines))


def tree(topology: Topology, states: dict[str, str]) -> list[str]:
    """A topology as lines; each machine stands below the last one it waits for."""
    lines = [topology.name]
    place = {name: at for at, group in enumerate(topology.order()) for name in group}
    below: dict[str, list[str]] = {}
    for name, member in topology.members.items():
        # Of several, the one that starts last is what it really waits for.
        parent = max(member.after, key=lambda one: place[one], default="")
        below.setdefault(parent, []).append(name)

    def draw(names: list[str], indent: str) -> None:
        for number, name in enumerate(names):
            last = number == len(names) - 1
            after = topology.members[name].after
            more = f", after {', '.join(after)}" if len(after) > 1 else ""
            lines.append(f"{indent}{'└─' if last else '├─'} {name}  {states[name]}{more}")
            draw(below.get(name, []), indent + ("   " if last else "│  "))

    draw(below.get("", []), "")
    return lines


def service_line(service: Service) -> str:
    """A service as a line; of the host's, also what it leads to and whether that is there."""
    told = f"{service.name:<12} port {service.port} of {service.machine}"
    if service.target:
        present = {True: "", False: ", where nobody listens", None: ", which this host cannot see"}
        told += f" -> {service.target}{present[target_listens(service.target)]}"
    return told


def read_topology(file: str) -> Stored:
    """A topology file as it is; whether it makes sense is its reader's to say.

    :raise UsageError: it cannot be read.
    """
    try:
        path = Path(file)
        return Stored(file, path.read_text(encoding="utf-8"), str(path.absolute().parent))
    except (OSError, UnicodeDecodeError) as exc:
        said = exc.strerror if isinstance(exc, OSError) else exc
        raise UsageError(
            f"cannot read {file}: {said}", stage="topology file", fix="name another file"
        ) from exc


def _chosen(layout: Layout, name: str | None) -> str:
    if name is None:
        return only_topology(layout)
    if name.endswith(".toml") and Path(name).exists():
        return read_topology(name).parsed().name
    return name


def _states(layout: Layout, topology: Topology) -> dict[str, str]:
    states = {}
    for name in topology.members:
        try:
            record = read_record(layout, name)
            states[name] = record.state + (f": {record.reason}" if record.state == "failed" else "")
        except InnError as error:
            states[name] = error.brief
    return states


def _as_dict(layout: Layout, topology: Topology) -> dict[str, Any]:
    states = _states(layout, topology)
    machines = []
    for name, member in topology.members.items():
        try:
            cid = load_machine(layout, name).cid
        except InnError:
            cid = None
        machines.append(
            {
                "name": name,
                "state": states[name],
                "cid": cid,
                "addresses": list(inet_addresses(cid)) if cid is not None else [],
                "after": list(member.after),
            }
        )
    services = [
        {
            "name": one.name,
            "machine": one.machine,
            "port": one.port,
            "target": one.target or None,
            "listening": target_listens(one.target) if one.target else None,
        }
        for one in topology.services.values()
    ]
    return {"name": topology.name, "machines": machines, "services": services}
