# SPDX-License-Identifier: Apache-2.0
"""A policy as the tables that two guests' devices enforce. Pure.

Each device holds a row for every other guest that it may reach or be reached by.
The guest that connects dials the socket `from_<its CID>.sock` of the other's
runtime folder, on which only its own keeper is expected: who can open it is the
owner of both. The host is a row as well, for the services that it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from innkeeper.model.inet import HOST_CID
from innkeeper.model.policy import HOST, Grant, Policy, grants, stream_grants

Range = tuple[int, int]


class PeerRow(msgspec.Struct, frozen=True, kw_only=True):
    """What is allowed between a guest and one other.

    :ivar name: the other's machine.
    :ivar cid: the other's CID.
    :ivar dial: the socket to dial for a stream to it; "" where none is allowed.
    :ivar listen: the socket on which its streams come; "" where none is allowed.
    :ivar connect: ranges of its ports that this guest may reach.
    :ivar accept: ranges of this guest's ports that it may reach.
    :ivar max_streams: the least quota of the rules that allow something.
    """

    name: str
    cid: int
    dial: str
    listen: str
    connect: tuple[Range, ...]
    accept: tuple[Range, ...]
    max_streams: int


def peer_rows(
    policy: Policy,
    own: str,
    cids: Mapping[str, int],
    *,
    link: Callable[[str, int], str],
    host_ports: Iterable[int] = (),
) -> tuple[PeerRow, ...]:
    """The rows of the machine `own`.

    :param cids: CID of every machine of the topology.
    :param link: path of the socket of a machine for the guest with a CID.
    :param host_ports: those of the host that are services.
    """
    rows = list(_host_row(policy, own, host_ports))
    for name, cid in cids.items():
        if name == own:
            continue
        connect = grants(policy, own, name, "connect")
        accept = grants(policy, name, own, "listen")
        if not connect and not accept:
            continue
        rows.append(
            PeerRow(
                name=name,
                cid=cid,
                dial=link(name, cids[own]) if connect else "",
                listen=link(own, cid) if accept else "",
                connect=_ranges(connect),
                accept=_ranges(accept),
                max_streams=min(grant.rule.quota for grant in (*connect, *accept)),
            )
        )
    return tuple(rows)


def _host_row(policy: Policy, own: str, ports: Iterable[int]) -> Iterator[PeerRow]:
    """The host's row: for its side too this guest's device decides."""
    found = stream_grants(policy, own, HOST)
    allowed = {port: grant.rule.quota for port in ports for grant in found if grant.holds(port)}
    if allowed:
        yield PeerRow(
            name=HOST,
            cid=HOST_CID,
            dial="",
            listen="",
            connect=tuple((port, port) for port in sorted(allowed)),
            accept=(),
            max_streams=min(allowed.values()),
        )


def _ranges(found: tuple[Grant, ...]) -> tuple[Range, ...]:
    return tuple((grant.first, grant.last) for grant in found)
