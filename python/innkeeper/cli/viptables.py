# SPDX-License-Identifier: Apache-2.0
"""`inn viptables`: rules in the manner of Argo's firewall, for a topology that is up."""

from __future__ import annotations

from typing import Any

import click

from innkeeper.cli.output import FORMAT, columns, print_json
from innkeeper.cli.policy import rule_place
from innkeeper.errors import InnError, UsageError
from innkeeper.keeper.topologies import change_rules, only_topology
from innkeeper.model.policy import OPERATIONS, Policy, Rule, format_ports
from innkeeper.model.topology import Topology
from innkeeper.model.viptables import (
    ADDED_LINE,
    TARGETS,
    Entry,
    Wish,
    delete,
    find,
    insert,
    rule_of,
    rule_toml,
)
from innkeeper.registry.layout import Layout, host_layout
from innkeeper.registry.machines import load_machine
from innkeeper.registry.topologies import load_stored
from innkeeper.system.interrupt import interruptible

_COMMANDS = ("append", "insert", "delete", "flush", "list_rules", "save")
# What -D is without a number.
_BY_RULE = 0


@click.command()
@click.option("-A", "--append", is_flag=True, help="Add a rule behind the others.")
@click.option(
    "-I",
    "--insert",
    type=int,
    is_flag=False,
    flag_value=1,
    metavar="[N]",
    help="Add a rule before rule N [1].",
)
@click.option(
    "-D",
    "--delete",
    type=int,
    is_flag=False,
    flag_value=_BY_RULE,
    metavar="[N]",
    help="Take rule N away, or the first that is as described.",
)
@click.option("-F", "--flush", is_flag=True, help="Take all rules away: nobody may do anything.")
@click.option("-L", "--list", "list_rules", is_flag=True, help="List the rules in force.")
@click.option("--save", is_flag=True, help="Print the rules in force as a topology file has them.")
@click.option("-d", "--dom-in", "source", default="", metavar="MACHINE", help="The client.")
@click.option("-e", "--dom-out", "destination", default="", metavar="MACHINE", help="The server.")
@click.option("-p", "--port-in", metavar="PORT", help="Refused: a client chooses its port itself.")
@click.option("-q", "--port-out", "port", default="", metavar="PORT", help="The server's port.")
@click.option("-j", "--jump", "target", type=click.Choice(tuple(TARGETS)), help="What to do.")
@click.option(
    "--operation",
    "operations",
    type=click.Choice(OPERATIONS),
    multiple=True,
    help="What the rule speaks of; may be repeated  [connect, listen, send]",
)
@click.option("--topology", metavar="NAME", help="Which, where several are up.")
@FORMAT
def viptables(topology: str | None, output_format: str, **values: Any) -> None:
    """Change the rules between guests while they run, as Argo's viptables does.

    \b
    inn viptables -A -d web -e db -q 5432 -j ACCEPT
    inn viptables -I 1 -d web -j REJECT
    inn viptables -D 1
    inn viptables -D -d web -e db -q 5432
    inn viptables -L

    The first rule that matches decides; where none does, the answer is no. A
    MACHINE is a name or a CID (the host is 0, as a domid), or a service for -e,
    which has its own port; what is left out is any. PORT is a number or FIRST-LAST.

    Every keeper takes the change, or everything stays as it was; streams that
    are not allowed any more are cut. The rules of the topology's file can be
    taken away too. The file itself stays as it is: `inn policy apply FILE` and
    `inn up FILE` bring its rules back, and what --save prints can go into it.
    """
    command = _command(values)
    layout = host_layout()
    name = topology or only_topology(layout)
    if command in ("list_rules", "save"):
        found = load_stored(layout, name).parsed()
        _print(found, as_json=output_format == "json", save=command == "save")
        return
    wish = _wish(values)

    def change(found: Topology, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        cids = _cids(layout, found)
        if command == "flush":
            return ()
        if command == "delete":
            number = values["delete"]
            return delete(entries, number or find(found.policy, found, cids, wish))
        return insert(entries, rule_of(found, cids, wish), values["insert"])

    with interruptible():
        change_rules(layout, name, change)


def _command(values: dict[str, Any]) -> str:
    given = [one for one in _COMMANDS if values[one] is not None and values[one] is not False]
    if len(given) != 1:
        raise UsageError(
            "which command?" if not given else "one command at a time",
            stage="viptables",
            fix="one of -A, -I, -D, -F, -L and --save",
        )
    if values["port_in"] is not None:
        raise UsageError(
            "a rule cannot name the client's port",
            stage="viptables",
            fix="leave -p out: any program of a guest may take any port, so it says nothing",
        )
    return given[0]


def _wish(values: dict[str, Any]) -> Wish:
    return Wish(
        source=values["source"],
        destination=values["destination"],
        port=values["port"],
        target=values["target"],
        operations=tuple(one for one in OPERATIONS if one in values["operations"]),
    )


def _cids(layout: Layout, topology: Topology) -> dict[str, int]:
    found = dict[str, int]()
    for name in topology.members:
        try:
            cid = load_machine(layout, name).cid
        except InnError:
            continue
        if cid is not None:
            found[name] = cid
    return found


def _print(topology: Topology, *, as_json: bool, save: bool) -> None:
    policy = topology.policy
    if save:
        click.echo("\n".join(rule_toml(rule) for rule in policy.rules), nl=False)
    elif as_json:
        rules = [_as_dict(rule) for rule in policy.rules]
        print_json({"topology": topology.name, "file": policy.source, "rules": rules})
    else:
        click.echo("\n".join(columns(_rows(policy))))


def _rows(policy: Policy) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("NUMBER", "TARGET", "CLIENT", "SERVER", "PORT", "OPERATIONS", "FROM")
    ]
    for rule in policy.rules:
        ports, operations = format_ports(rule.ports), ",".join(rule.operations)
        place = rule_place(policy, rule)
        number, target = str(rule.number), _target(rule)
        rows.append((number, target, rule.source, rule.destination, ports, operations, place))
    rows.append(("else", "REJECT", "*", "*", "*", "all", ""))
    return rows


def _as_dict(rule: Rule) -> dict[str, object]:
    return {
        "number": rule.number,
        "target": _target(rule),
        "client": rule.source,
        "server": rule.destination,
        "ports": [list(one) for one in rule.ports],
        "operations": list(rule.operations),
        "line": rule.line or None,
        "added": rule.line == ADDED_LINE,
    }


def _target(rule: Rule) -> str:
    return next(target for target, action in TARGETS.items() if action == rule.action)
