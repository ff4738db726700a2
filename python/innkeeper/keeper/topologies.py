# SPDX-License-Identifier: Apache-2.0
"""What can be done with a topology: up, down, apply another policy.

::

    up:    claims checked ─> stored ─> machines made ─> policy applied ─> groups started
    down:  groups stopped, the last first ─> machines removed ─> forgotten
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from innkeeper.errors import GuestError, InnError, UsageError
from innkeeper.keeper.client import ask_keeper
from innkeeper.keeper.machines import remove_machine, start_machine, stop_machines
from innkeeper.keeper.messages import ApplyPolicy
from innkeeper.model.machine import Machine
from innkeeper.model.topology import Topology
from innkeeper.model.viptables import Entry, entries_of
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import (
    create_machine,
    guest_lives,
    load_machine,
    machine_names,
    replace_machine,
)
from innkeeper.registry.topologies import (
    Stored,
    check_claims,
    check_file,
    choose_cids,
    load_stored,
    load_topologies,
    remove_topology,
    store_topology,
    topology_names,
)
from innkeeper.system.locks import lock_folder

_APPLY_LIMIT_S = 5.0
Tell = Callable[[str], None]


def bring_up(layout: Layout, stored: Stored, *, tell: Tell) -> Topology:
    """Make and start the machines of a topology, each when those before it are ready.

    What runs already is left alone, but for the policy. A start that fails takes
    those down again that this call started.

    :param tell: called with a line for each machine and each long step.
    :raise UsageError: the topology makes no sense here; nothing was changed.
    :raise InnError: a machine cannot be made or started.
    """
    topology = stored.parsed()
    known, present = load_topologies(layout), set(machine_names(layout))
    before = known.get(topology.name)
    if before is not None:
        before_path = load_stored(layout, topology.name).path
        check_file(topology, before, path=stored.path, before_path=before_path)
    check_claims(topology, known, present)
    cids = choose_cids(layout, topology, present)
    for name in present & set(before.members if before is not None else ()):
        # One that the topology had when it was last up, and has no more.
        if name not in topology.members:
            remove_machine(layout, name, force=True)
            tell(f"{name} removed: it is not in the topology any more")
    store_topology(layout, topology.name, stored)
    for name, cid in cids.items():
        wanted = msgspec.structs.replace(topology.members[name].machine, cid=cid)
        if name in present:
            _change(layout, wanted, tell=tell)
        else:
            create_machine(layout, wanted)
    _tell_keepers(layout, topology.members)
    started: list[str] = []
    try:
        for group in topology.order():
            _start_group(layout, topology, group, started, tell=tell)
    except BaseException:
        for _ in stop_machines(layout, reversed(started), timeout_s=0.0):
            pass
        raise
    return topology


def bring_down(layout: Layout, name: str, *, keep: bool, timeout_s: float, tell: Tell) -> None:
    """Stop the machines of a topology, the last started first, and remove them.

    :param keep: leave the machines, for the next `up`.
    :raise UnknownName: no such topology is up.
    :raise InnError: a machine cannot be stopped; the rest was, and nothing is removed.
    """
    topology = load_stored(layout, name).parsed()
    present = set(machine_names(layout))
    failure: InnError | None = None
    for group in reversed(topology.order()):
        there = [one for one in group if one in present]
        for machine, ended in stop_machines(layout, there, timeout_s=timeout_s):
            if isinstance(ended, InnError):
                failure = failure or ended
            elif ended:
                tell(f"{machine} stopped")
    if failure is not None:
        raise failure
    if keep:
        return
    for machine in topology.members:
        if remove_machine(layout, machine, force=False):
            tell(f"{machine} removed")
    remove_topology(layout, name)


def apply_policy(layout: Layout, stored: Stored) -> Topology:
    """Put another policy in force for a topology that is up; all keepers take it, or none.

    :raise UsageError: it has other machines than those that are up.
    :raise InnError: a keeper did not take it; the old policy is in force.
    """
    topology = stored.parsed()
    load_stored(layout, topology.name)
    with lock_folder(layout.topologies):
        return _replace_policy(layout, topology, stored)


def change_rules(
    layout: Layout,
    name: str,
    change: Callable[[Topology, tuple[Entry, ...]], tuple[Entry, ...]],
) -> Topology:
    """Change the rules of a topology that is up, one by one; all keepers take it, or none.

    :param change: makes other entries of what is in force; nobody else changes it meanwhile.
    :raise InnError: as :func:`apply_policy`, or what `change` raises.
    """
    load_stored(layout, name)
    with lock_folder(layout.topologies):
        before = load_stored(layout, name)
        topology = before.parsed()
        entries = entries_of(topology.policy) if before.entries is None else before.entries
        stored = msgspec.structs.replace(before, entries=change(topology, entries))
        return _replace_policy(layout, stored.parsed(), stored)


def _replace_policy(layout: Layout, topology: Topology, stored: Stored) -> Topology:
    before = load_stored(layout, topology.name)
    members = before.parsed().members
    if set(members) != set(topology.members):
        other = ", ".join(sorted(set(members) ^ set(topology.members)))
        raise UsageError(
            f"the topology {topology.name!r} that is up has other machines",
            stage="policy",
            evidence=(f"only in one of the two: {other}",),
            fix="`inn up` brings the machines up too",
        )
    store_topology(layout, topology.name, stored)
    try:
        _tell_keepers(layout, members)
    except InnError:
        store_topology(layout, topology.name, before)
        with contextlib.suppress(InnError):
            _tell_keepers(layout, members)
        raise
    return topology


def only_topology(layout: Layout) -> str:
    """The name of the one topology that is up.

    :raise UsageError: there is none, or several.
    """
    names = topology_names(layout)
    if len(names) == 1:
        return names[0]
    raise UsageError(
        "no topology is up" if not names else "several topologies are up",
        stage="topology",
        fix="`inn up FILE`" if not names else f"name one: {', '.join(names)}",
    )


def _change(layout: Layout, wanted: Machine, *, tell: Tell) -> None:
    """Give a machine that is there the settings that its file has now."""
    name = wanted.name
    if load_machine(layout, name) == wanted:
        return
    replace_machine(layout, wanted)
    if guest_lives(layout, name):
        tell(f"{name} runs with its old settings; `inn restart {name}` gives it the new ones")


def _tell_keepers(layout: Layout, names: Iterable[str]) -> None:
    """Have every running guest's keeper enforce what is on disk."""
    failure: InnError | None = None
    for name in names:
        if not guest_lives(layout, name):
            continue
        try:
            ask_keeper(layout, name, ApplyPolicy(), timeout_s=_APPLY_LIMIT_S)
        except InnError as error:
            # One that ended in the meantime has nothing to enforce.
            if guest_lives(layout, name):
                failure = failure or _explain(name, error)
    if failure is not None:
        raise failure


def _explain(name: str, error: InnError) -> InnError:
    return GuestError(
        f"the keeper of {name!r} did not take the policy",
        stage="policy",
        evidence=(error.brief,),
        fix=error.fix,
    )


def _start_group(
    layout: Layout, topology: Topology, group: tuple[str, ...], started: list[str], *, tell: Tell
) -> None:
    """Start machines that do not wait for each other, all at the same time."""

    def start(name: str) -> bool:
        return start_machine(
            layout,
            name,
            wait=topology.members[name].wait,
            report=lambda line: tell(f"{name}: {line}"),
            on_event=lambda _event: None,
        )

    failure: InnError | None = None
    with ThreadPoolExecutor(len(group)) as pool:
        futures = {name: pool.submit(start, name) for name in group}
        for name, future in futures.items():
            try:
                begun = future.result()
            except InnError as error:
                failure = failure or _named(name, error)
                continue
            tell(f"{name} is ready" if begun else f"{name} is running already")
            if begun:
                started.append(name)
    if failure is not None:
        raise failure


def _named(name: str, error: InnError) -> InnError:
    error.brief = f"{name}: {error.brief}"
    return error
