# SPDX-License-Identifier: Apache-2.0
"""The rings of one guest: the board that carries them, its sockets, and its audit.

The board is native (crates/ringboard); here are its sockets in the guest's runtime
folder, the rules that follow from the policy, and the names in the audit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from innkeeper._core import RingBoard
from innkeeper.keeper.audit import Audit
from innkeeper.model.inet import HOST_CID
from innkeeper.model.policy import ANYBODY, HOST, Policy, judge_ring
from innkeeper.registry.layout import Layout
from innkeeper.switchboard.rings import FIRST_RESERVED_ID, HOST_ID, ring_rules
from innkeeper.system.sockets import listen_unix


class Rings:
    """What carries one guest's rings, from the first :meth:`apply` on.

    :param cid: the guest's; one that can be no domain has no rings.
    :param audit: what is allowed and refused is written there; None keeps nothing.
    """

    def __init__(self, layout: Layout, name: str, cid: int, audit: Audit | None) -> None:
        self._layout = layout
        self._folder = layout.guest(name)
        self._name = name
        self._cid = cid
        self._audit = audit
        self._board: RingBoard | None = None
        self._fd = -1
        self._links: dict[int, Path] = {}
        self._policy = Policy()
        self._names: dict[int, str] = {}

    def apply(self, policy: Policy, cids: Mapping[str, int], *, mac_permissive: bool) -> None:
        """Enforce a policy from now on; rings and waiters that it does not allow are cut.

        :param cids: CID of every machine of the guest's topology.
        :raise InnError: a socket cannot be bound; then nothing has changed.
        """
        if self._cid >= FIRST_RESERVED_ID:
            return
        rules = ring_rules(
            policy,
            self._name,
            {**cids, self._name: self._cid},
            link=lambda owner, cid: str(self._layout.guest(owner).ring_link(cid)),
            mac_permissive=mac_permissive,
        )
        listeners = {
            row.domain: listen_unix(Path(row.listen))
            for row in rules.rows
            if row.listen and row.domain not in self._links
        }
        if self._board is None:
            guest, host = listen_unix(self._folder.guest_rings), listen_unix(self._folder.rings)
            # From here on the board owns both descriptors, also when it fails.
            self._board = RingBoard(
                guest=self._cid,
                guest_fd=guest.detach(),
                host_fd=host.detach(),
                rules=rules.native(),
            )
            self._fd = self._board.decisions_fd()
            asyncio.get_running_loop().add_reader(self._fd, self.note_decisions)
        else:
            # What was decided by the old rules is told with them.
            self.note_decisions()
            self._board.set_rules(rules.native())
        for cid, listener in listeners.items():
            self._board.link(listener.detach(), cid)
            self._links[cid] = self._folder.ring_link(cid)
        known = {row.domain for row in rules.rows}
        for cid in [cid for cid in self._links if cid not in known]:
            # The board closed its end when the row went.
            self._links.pop(cid).unlink(missing_ok=True)
        self._policy = policy
        self._names = {HOST_ID: HOST, self._cid: self._name}
        self._names |= {cid: name for name, cid in cids.items()}

    def note_decisions(self) -> None:
        """Write to the audit what the board allowed and refused since the last time."""
        assert self._board is not None
        decisions, lost = self._board.take_decisions()
        if self._audit is None:
            return
        for sender, owner, operation, port, from_port, verdict in decisions:
            # An id that no machine of the topology has is somebody's guess.
            source = ANYBODY if sender is None else self._names.get(sender, "")
            destination = self._names.get(owner, "")
            other = owner if sender == self._cid else sender
            self._audit.note(
                verdict=verdict,
                source=source,
                destination=destination,
                port=port,
                from_port=from_port,
                operation=operation,
                peer_cid=HOST_CID if other == HOST_ID else other,
                rule=judge_ring(self._policy, source, destination, port, operation).rule,
            )
        self._audit.note_lost(lost)

    def close(self) -> None:
        """End the board and take its sockets away. Idempotent."""
        if self._board is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            self.note_decisions()
            self._board.close()
            self._board = None
        for path in (*self._links.values(), self._folder.guest_rings, self._folder.rings):
            path.unlink(missing_ok=True)
        self._links = {}
