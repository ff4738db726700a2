# SPDX-License-Identifier: Apache-2.0
"""`inn policy`: who may reach whom, and why."""

from __future__ import annotations

from typing import Any

import click

from innkeeper.cli.groups import LazyGroup
from innkeeper.cli.output import FORMAT, columns, print_json
from innkeeper.cli.topology import DEFAULT_FILE, read_topology
from innkeeper.errors import UnknownName, UsageError
from innkeeper.keeper.topologies import apply_policy, only_topology
from innkeeper.model.policy import (
    ANYBODY,
    HOST,
    OPERATIONS,
    RINGS,
    STREAM,
    Grant,
    Judgement,
    Operation,
    Policy,
    Rule,
    format_ports,
    judge,
    judge_ring,
    judge_stream,
    stream_grants,
)
from innkeeper.model.topology import Topology
from innkeeper.model.viptables import ADDED_LINE
from innkeeper.registry.layout import host_layout
from innkeeper.registry.topologies import load_stored
from innkeeper.system.interrupt import interruptible

_VERBS = {
    "check": ("innkeeper.cli.policy:check", "Say whether a topology file makes sense."),
    "explain": ("innkeeper.cli.policy:explain", "Say whether one may reach another, and why."),
    "test": ("innkeeper.cli.policy:test", "See that a file's rules do what its tests expect."),
    "apply": ("innkeeper.cli.policy:apply", "Put a file's rules in force for what is up."),
    "watch": ("innkeeper.cli.audit:watch", "Print what guests ask of each other as it happens."),
}


@click.group(cls=LazyGroup, verbs=_VERBS)
def policy() -> None:
    """Rules between the guests of a topology: the first that matches decides; else no."""


@click.command()
@click.argument("file", default=DEFAULT_FILE)
def check(file: str) -> None:
    """Read a topology FILE and print who may reach whom; change nothing."""
    click.echo("\n".join(reach_lines(read_topology(file).parsed())))


@click.command()
@click.option("-f", "--file", metavar="FILE", help="A topology file, in place of what is up.")
@click.option("--topology", metavar="NAME", help="Which, where several are up.")
@click.option(
    "--operation",
    type=click.Choice(OPERATIONS),
    default="connect",
    show_default=True,
    help="What the source wants to do.",
)
@FORMAT
@click.argument("source")
@click.argument("destination")
@click.argument("port", type=int, required=False)
def explain(source: str, destination: str, port: int | None, **values: Any) -> int:
    """Say whether SOURCE may reach PORT of DESTINATION, and which rule says so.

    DESTINATION may be a service, which has its own port. Exit code 0 where it
    may, 1 where it may not.
    """
    operation: Operation = values["operation"]
    found = _topology(values["file"], values["topology"])
    whom, number = _resolve(found, source, destination, port)
    judgement, why = judge_wish(found, source, whom, number, operation)
    if values["output_format"] == "json":
        rule = judgement.rule
        print_json(
            {
                "allowed": judgement.allowed,
                "reason": why,
                "source": source,
                "destination": whom,
                "port": number,
                "operation": operation,
                "rule": rule.number if rule else None,
                "line": (rule.line or None) if rule else None,
                "added": rule is not None and rule.line == ADDED_LINE,
                "file": found.policy.source,
            }
        )
    else:
        told = "may" if judgement.allowed else "may not"
        click.echo(f"{source} {told} {operation} to port {number} of {whom}")
        click.echo(f"  {why}")
    return 0 if judgement.allowed else 1


@click.command()
@click.argument("file", default=DEFAULT_FILE)
def test(file: str) -> int:
    """Try the [[test]] tables of a topology FILE: `from`, `to`, `port`, `expect`.

    Exit code 0 where every one comes out as it is expected, 1 else.
    """
    topology = read_topology(file).parsed()
    if not topology.expectations:
        raise UsageError(
            f"{file} has no tests",
            stage="policy",
            fix='[[test]] with from = "...", to = "...", port = N, expect = "allow" or "deny"',
        )
    code = 0
    for one in topology.expectations:
        judgement, why = judge_wish(topology, one.source, one.destination, one.port, one.operation)
        good = judgement.allowed == (one.expect == "allow")
        code = code if good else 1
        wish = f"{one.source} {one.operation} {one.destination}:{one.port}"
        click.echo(f"{'ok  ' if good else 'FAIL'}  line {one.line}: {wish}, expect {one.expect}")
        if not good:
            click.echo(f"      {why}")
    return code


@click.command()
@click.argument("file", default=DEFAULT_FILE)
def apply(file: str) -> None:
    """Put the rules of a topology FILE in force for its machines that are up.

    Streams that they do not allow are cut at once. Every keeper takes them, or
    the old rules stay in force.
    """
    with interruptible():
        topology = apply_policy(host_layout(), read_topology(file))
    click.echo(topology.name)


def judge_wish(
    topology: Topology, source: str, destination: str, port: int, operation: Operation
) -> tuple[Judgement, str]:
    """What becomes of a wish in a topology, and why; streams with the host are special."""
    if operation in STREAM and source == HOST:
        return Judgement(
            allowed=True
        ), "streams from the host are its owner's, and no rule is asked"
    if operation in RINGS:
        sender = ANYBODY if operation == "register-any" else source
        judgement = judge_ring(topology.policy, sender, destination, port, operation)
        if judgement.allowed and judgement.rule is None:
            return judgement, "no rule denies it, and programs of the host are their owner's"
        if operation == "register-any" and judgement.allowed and not topology.mac_permissive:
            return Judgement(allowed=False), "[rings] has no `mac_permissive = true`"
    elif destination != HOST:
        judgement = judge(topology.policy, source, destination, port, operation)
    elif port in topology.host_services():
        judgement = judge_stream(topology.policy, source, HOST, port)
    else:
        return Judgement(allowed=False), (
            f"no service of {topology.policy.source} is at this port of the host; what somebody"
            f" listens for at vsock.sock_{port} by hand is judged by no rule"
        )
    return judgement, reason(topology.policy, judgement)


def reason(policy: Policy, judgement: Judgement) -> str:
    """Why a wish is judged so, with the rule and its line."""
    if judgement.rule is None:
        return f"no rule of {policy.source} matches, so the answer is no"
    rule = judgement.rule
    return f"rule {rule.number}, {rule_place(policy, rule)}: {rule_text(rule)}"


def rule_place(policy: Policy, rule: Rule) -> str:
    """Where a rule is from."""
    if rule.line == ADDED_LINE:
        return "added by viptables"
    return f"{policy.source} line {rule.line}"


def rule_text(rule: Rule) -> str:
    """A rule as one line."""
    return (
        f"{rule.action} {rule.source} -> {rule.destination} port {format_ports(rule.ports)} "
        f"({', '.join(rule.operations)})"
    )


def reach_lines(topology: Topology) -> list[str]:
    """Who may reach whom by streams, and by which rule; as a table."""
    rows = [("SOURCE", "DESTINATION", "PORTS", "BY")]
    for source in topology.members:
        for destination in topology.members:
            for grant in stream_grants(topology.policy, source, destination):
                if source != destination:
                    ports = format_ports(((grant.first, grant.last),))
                    rows.append((source, destination, ports, _by(grant)))
        for grant in stream_grants(topology.policy, source, HOST):
            rows += [
                (source, HOST, str(port), _by(grant))
                for port in topology.host_services()
                if grant.holds(port)
            ]
    if len(rows) == 1:
        return ["nobody may reach anybody: no rule allows it"]
    return columns(rows)


def _by(grant: Grant) -> str:
    return f"rule {grant.rule.number}, line {grant.rule.line}"


def _topology(file: str | None, name: str | None) -> Topology:
    if file is not None:
        return read_topology(file).parsed()
    layout = host_layout()
    return load_stored(layout, name or only_topology(layout)).parsed()


def _resolve(
    topology: Topology, source: str, destination: str, port: int | None
) -> tuple[str, int]:
    """The machine and port that are meant."""
    known = (*topology.members, HOST)
    if source not in known:
        raise UnknownName("machine", source, known, stage="policy")
    service = topology.services.get(destination)
    if service is not None and port is None:
        return service.machine, service.port
    if destination not in known:
        raise UnknownName(
            "machine or service", destination, (*known, *topology.services), stage="policy"
        )
    if port is None:
        raise UsageError("which port?", stage="policy", fix="give its number after the machine")
    return destination, port
