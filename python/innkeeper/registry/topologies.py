# SPDX-License-Identifier: Apache-2.0
"""Topologies that are up on this host: the text of each, as it was applied.

`<state>/topologies/NAME.json` holds it. A machine is in at most one of them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

import msgspec

from innkeeper.errors import HostError, InnError, UnknownName, UsageError
from innkeeper.model.topology import Topology
from innkeeper.model.topology_file import parse_topology
from innkeeper.model.viptables import Entry, with_entries
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import load_machine, machine_names
from innkeeper.system.files import make_folder, naming_errors, read_whole, write_atomic

# Below are the CIDs that guests get by themselves, one for each that runs.
FIRST_CID = 1024
_STAGE = "topology"


class Stored(msgspec.Struct, frozen=True):
    """A topology on disk.

    :ivar origin: the file that it is from.
    :ivar text: what stood there.
    :ivar folder: what paths in it are relative to; absolute.
    :ivar entries: the rules in force, where they are not those of the text.
    """

    origin: str
    text: str
    folder: str = "/"
    entries: tuple[Entry, ...] | None = None

    @property
    def path(self) -> str:
        """The file's own path, absolute."""
        return str(PurePosixPath(self.folder) / PurePosixPath(self.origin).name)

    def parsed(self) -> Topology:
        """The topology itself, with the rules in force."""
        topology = parse_topology(self.text, source=self.origin, folder=self.folder)
        if self.entries is None:
            return topology
        return msgspec.structs.replace(topology, policy=with_entries(topology.policy, self.entries))


def store_topology(layout: Layout, name: str, stored: Stored) -> None:
    """Put a topology on disk, in place of one of this name.

    :raise HostError: it cannot be written.
    """
    make_folder(layout.topologies)
    write_atomic(layout.topology(name), msgspec.json.encode(stored))


def load_stored(layout: Layout, name: str) -> Stored:
    """A topology as it was applied.

    :raise UnknownName: none of this name is up.
    :raise InnError: its file is damaged; it is named and left as it is.
    """
    path = layout.topology(name)
    try:
        return msgspec.json.decode(read_whole(os.fspath(path)), type=Stored)
    except FileNotFoundError as exc:
        raise UnknownName("topology", name, topology_names(layout), stage=_STAGE) from exc
    except OSError as exc:
        raise HostError(f"cannot read {path}: {exc.strerror}", stage=_STAGE) from exc
    except ValueError as exc:
        raise InnError(
            f"the file {path} is damaged",
            stage=_STAGE,
            evidence=(str(exc),),
            fix="`inn up` with the topology's own file writes it anew",
        ) from exc


def remove_topology(layout: Layout, name: str) -> None:
    """Forget a topology; its machines stay.

    :raise HostError: it cannot be removed.
    """
    path = layout.topology(name)
    with naming_errors(path, doing="remove", stage=_STAGE), contextlib.suppress(FileNotFoundError):
        path.unlink()


def topology_names(layout: Layout) -> tuple[str, ...]:
    """The names of all topologies that are up, sorted."""
    with contextlib.suppress(OSError):
        return tuple(
            sorted(path.stem for path in layout.topologies.iterdir() if path.suffix == ".json")
        )
    return ()


def load_topologies(layout: Layout) -> dict[str, Topology]:
    """All topologies that are up, by name.

    :raise InnError: a file is damaged.
    """
    return {name: load_stored(layout, name).parsed() for name in topology_names(layout)}


def topology_of(layout: Layout, machine: str) -> Topology | None:
    """The topology that a machine belongs to, if one is up.

    :raise InnError: a file is damaged.
    """
    for name in topology_names(layout):
        topology = load_stored(layout, name).parsed()
        if machine in topology.members:
            return topology
    return None


def claim(layout: Layout, topology: Topology) -> dict[str, int]:
    """The CID of each machine of a topology, if `up` could have them all; changes nothing.

    :raise UsageError: a machine or a CID is somebody else's.
    :raise InnError: the file of a topology that is up is damaged.
    """
    present = machine_names(layout)
    check_claims(topology, load_topologies(layout), present)
    return choose_cids(layout, topology, present)


def check_file(topology: Topology, before: Topology, *, path: str, before_path: str) -> None:
    """Refuse another file of the same name that would remove machines of what is up.

    :param before: what is up by this name.
    :param path: the topology's own file, absolute; `before_path` of what is up.
    :raise UsageError: it is from another file, and has machines that are missing here.
    """
    missing = before.members.keys() - topology.members.keys()
    if missing and path != before_path:
        raise UsageError(
            f"a topology {topology.name!r} is up from another file, {before_path}",
            stage=_STAGE,
            evidence=(f"it has machines that are not in {path}: {', '.join(sorted(missing))}",),
            fix=f"give this one another name, or `inn down {topology.name}` first",
        )


def check_claims(
    topology: Topology, others: Mapping[str, Topology], present: Collection[str]
) -> None:
    """Refuse a topology whose machines are somebody else's.

    :param others: those that are up, by name; what it was itself when it was last up too.
    :param present: the names of all machines.
    :raise UsageError: another topology has one, or one was made by hand.
    """
    for name, other in others.items():
        for machine in topology.members if name != topology.name else ():
            if machine in other.members:
                raise UsageError(
                    f"the machine {machine!r} belongs to the topology {name!r}",
                    stage=_STAGE,
                    fix=f"give it another name, or `inn down {name}` first",
                )
    before = others.get(topology.name)
    for machine in topology.members:
        if machine in present and (before is None or machine not in before.members):
            raise UsageError(
                f"there is a machine named {machine!r} that is of no topology",
                stage=_STAGE,
                fix=f"give it another name, or `inn rm {machine}` first",
            )


def choose_cids(layout: Layout, topology: Topology, present: Collection[str]) -> dict[str, int]:
    """A CID for each machine: its file's, the one it has, or one that no machine has.

    :param present: the names of all machines.
    :raise UsageError: two machines want the same.
    """
    taken = dict[int, str]()
    known = dict[str, int]()
    for name in present:
        with contextlib.suppress(InnError):
            cid = load_machine(layout, name).cid
            if cid is not None and name not in topology.members:
                taken[cid] = name
            elif cid is not None:
                known[name] = cid
    chosen = dict[str, int]()
    for name, member in topology.members.items():
        wanted = member.machine.cid
        if wanted is None:
            continue
        if wanted in taken:
            raise UsageError(
                f"the machines {name!r} and {taken[wanted]!r} have the same CID {wanted}",
                stage=_STAGE,
                fix="give one of them another, or none",
            )
        taken[wanted] = name
        chosen[name] = wanted
    for name in topology.members:
        if name in chosen:
            continue
        cid = known.get(name, FIRST_CID)
        while cid in taken:
            cid += 1
        taken[cid] = name
        chosen[name] = cid
    return chosen
