# SPDX-License-Identifier: Apache-2.0
"""What one guest may do with others and with the host: links, table, rings, names, audit.

The topology is read from disk, at the guest's start and when somebody applied a new
policy; the table of CIDs and ports that follows from it is enforced by the device,
and the names that follow from it are told to the agent.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from innkeeper.agent.announce import AnnounceServer
from innkeeper.errors import GuestError
from innkeeper.keeper.audit import Audit
from innkeeper.keeper.names import guest_names, names_frame
from innkeeper.keeper.plan import RunPlan
from innkeeper.keeper.rings import Rings
from innkeeper.model.inet import HOST_CID
from innkeeper.model.policy import HOST, Operation, Policy, judge, judge_stream
from innkeeper.model.topology import Topology
from innkeeper.registry.machines import load_machine
from innkeeper.registry.topologies import topology_of
from innkeeper.switchboard.device import Switchboard
from innkeeper.switchboard.table import PeerRow, peer_rows
from innkeeper.system.sockets import listen_unix


def open_peers(
    plan: RunPlan,
    cid: int,
    board: Switchboard,
    announce: AnnounceServer,
    stack: AsyncExitStack,
) -> Peers:
    """What the guest of a plan may do with others, in force, and closed by `stack`.

    :raise InnError: the topology's file is damaged, or a socket cannot be made.
    """
    audit = None
    if plan.logs is not None:
        audit = Audit(plan.logs.audit)
        stack.callback(audit.close)
    rings = Rings(plan.layout, plan.machine.name, cid, audit)
    stack.callback(rings.close)
    peers = Peers(plan, board, announce, rings, audit)
    stack.callback(peers.close)
    peers.open()
    return peers


class Peers:
    """What one guest may do with others. Open while its device is.

    :param audit: where decisions are written; None keeps none.
    """

    def __init__(
        self,
        plan: RunPlan,
        board: Switchboard,
        announce: AnnounceServer,
        rings: Rings,
        audit: Audit | None,
    ) -> None:
        self._layout = plan.layout
        self._name = plan.machine.name
        # A run is in no topology, though a machine may have its name.
        self._in_topology = plan.logs is not None
        self._board = board
        self._announce = announce
        self._policy = Policy()
        self._names: dict[int, str] = {}
        self._links: dict[int, Path] = {}
        self._fd = -1
        self._rings = rings
        self._audit = audit

    def open(self) -> None:
        """Enforce the policy that is on disk, and watch what comes of it.

        :raise InnError: the topology's file is damaged, or a link cannot be made.
        """
        self.apply()
        self._fd = self._board.decisions_fd
        asyncio.get_running_loop().add_reader(self._fd, self.note_decisions)

    def apply(self) -> None:
        """Enforce the policy that is on disk now; what it does not allow is cut.

        :raise InnError: as :meth:`open`; then nothing has changed.
        """
        topology = topology_of(self._layout, self._name) if self._in_topology else None
        policy, rows, cids = Policy(), tuple[PeerRow, ...](), dict[str, int]()
        services = dict[int, str]()
        if topology is not None:
            cids = self._find_cids(topology)
            policy = topology.policy
            services = {port: one.target for port, one in topology.host_services().items()}
            rows = peer_rows(policy, self._name, cids, link=self._link_path, host_ports=services)
        # What was decided by the old rules is told with them.
        self.note_decisions()
        listened = {row.cid: row for row in rows if row.listen}
        for cid, row in listened.items():
            if cid not in self._links:
                path = Path(row.listen)
                self._board.link(listen_unix(path), cid)
                self._links[cid] = path
        self._board.set_peers(rows, services)
        mac_permissive = topology is not None and topology.mac_permissive
        self._rings.apply(policy, cids, mac_permissive=mac_permissive)
        self._policy = policy
        self._names = {HOST_CID: HOST, **{cid: name for name, cid in cids.items()}}
        self._announce.set_names(names_frame(guest_names(topology, cids)))
        known = {row.cid for row in rows}
        for cid in [cid for cid in self._links if cid not in known]:
            # The device closed its end when the row went.
            self._links.pop(cid).unlink(missing_ok=True)

    def close(self) -> None:
        """Take the sockets away. Idempotent."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._fd = -1
            self.note_decisions()
        for path in self._links.values():
            path.unlink(missing_ok=True)
        self._links = {}

    def note_decisions(self) -> None:
        """Write to the audit what the device allowed and refused since the last time."""
        decisions, lost = self._board.take_decisions()
        if self._audit is None:
            return
        for cid, outgoing, port, from_port, verdict in decisions:
            # A CID that no machine of the topology has is somebody's guess.
            other = self._names.get(cid, "")
            source, destination = (self._name, other) if outgoing else (other, self._name)
            operation: Operation = "connect" if outgoing else "listen"
            if cid == HOST_CID:
                # This device decides for both sides.
                rule = judge_stream(self._policy, source, destination, port).rule
            else:
                rule = judge(self._policy, source, destination, port, operation).rule
            self._audit.note(
                verdict=verdict,
                source=source,
                destination=destination,
                port=port,
                from_port=from_port,
                operation=operation,
                peer_cid=cid,
                rule=rule,
            )
        self._audit.note_lost(lost)

    def _find_cids(self, topology: Topology) -> dict[str, int]:
        cids = {}
        for name in topology.members:
            cid = load_machine(self._layout, name).cid
            if cid is None:
                raise GuestError(
                    f"the machine {name!r} has no CID", stage="policy", fix="`inn up` again"
                )
            cids[name] = cid
        return cids

    def _link_path(self, owner: str, cid: int) -> str:
        return str(self._layout.guest(owner).link(cid))
