# SPDX-License-Identifier: Apache-2.0
"""The vectors of Argo through the carrier: a board for each domain, a connection for each endpoint."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from ring_vectors import Replay, Table, load, unfit

from innkeeper._core import RingBoard
from innkeeper.rings import Rings

ALL = load()
Range = tuple[int, int]
Flow = tuple[list[Range], list[tuple[int, int, int]], list[Range], list[Range]]
TOP = 0xFFFFFFFF


def without(ports: list[int | None]) -> list[Range]:
    """All ports but these; None among them: no port at all."""
    if None in ports:
        return []
    edges = [-1, *sorted(one for one in ports if one is not None), TOP + 1]
    pairs = itertools.pairwise(edges)
    return [(low + 1, high - 1) for low, high in pairs if high - low > 1]


class Boards:
    """A keeper's board for each domain, linked to all others."""

    def __init__(self, folder: Path, setup: Table) -> None:
        self.folder = folder
        self.domains: range | list[int] = range(1, setup.get("domains", 3) + 1)
        self.quota = setup.get("quota_percent", 100)
        self.refuse: list[Table] = setup.get("refuse", [])
        self.mac_permissive = setup.get("mac_permissive", True)
        self.boards: dict[int, RingBoard] = {}
        for domain in self.domains:
            self.create(domain)

    def _listen(self, name: str) -> int:
        path = self.folder / name
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen(64)
            return listener.detach()

    def create(self, domain: int) -> None:
        board = RingBoard(
            guest=domain,
            guest_fd=self._listen(f"{domain}.sock"),
            host_fd=self._listen(f"{domain}.host"),
            rules=self._rules(domain),
        )
        self.boards[domain] = board
        for other in self.domains:
            if other != domain:
                board.link(self._listen(f"{domain}_from_{other}"), other)

    def destroy(self, domain: int) -> None:
        self.boards.pop(domain).close()

    def connect(self, domain: int) -> Rings:
        return Rings.open(self.folder / f"{domain}.sock")

    def set_policy(self, refuse: list[Table], *, mac_permissive: bool) -> Iterator[int]:
        self.refuse, self.mac_permissive = refuse, mac_permissive
        for domain, board in self.boards.items():
            board.set_rules(self._rules(domain))
            yield domain

    def close(self) -> None:
        for board in self.boards.values():
            board.close()

    def _open(self, what: str, actor: int, peer: int | None) -> list[Range]:
        """Where the policy lets `actor` do it towards `peer`."""
        return without(
            [
                one.get("port")
                for one in self.refuse
                if one["what"] == what and one["actor"] == actor and one.get("peer", peer) == peer
            ]
        )

    def _flow(self, sender: int, owner: int) -> Flow:
        send = self._open("send", sender, owner)
        return (
            self._open("register-single", owner, sender),
            [(low, high, self.quota) for low, high in send],
            self._open("query", sender, owner),
            self._open("notify", owner, sender),
        )

    def _rules(
        self, domain: int
    ) -> tuple[list[tuple[int, str, Flow, Flow]], list[Range], list[Range], bool]:
        others = [one for one in self.domains if one != domain]
        rows = [
            (
                other,
                str(self.folder / f"{other}_from_{domain}"),
                self._flow(domain, other),
                self._flow(other, domain),
            )
            for other in others
        ]
        return rows, self._open("register-any", domain, None), [], self.mac_permissive


@contextlib.contextmanager
def boards(folder: Path, setup: Table) -> Iterator[Replay]:
    carrier = Boards(folder, setup)
    replay = Replay(carrier, setup)
    try:
        yield replay
    finally:
        replay.close()
        carrier.close()


@pytest.mark.parametrize("vector", [one for _, one in ALL], ids=[name for name, _ in ALL])
def test_vector(tmp_path: Path, vector: Table) -> None:
    setup = vector.get("setup", {})
    if reason := unfit(setup):
        pytest.skip(reason)
    with boards(tmp_path, setup) as replay:
        replay.play(vector["steps"])
    print(*replay.skipped, sep="\n")  # noqa: T201 - each with its reason
    if len(replay.skipped) == len(vector["steps"]):
        pytest.skip(replay.skipped[0])


def test_few_vectors_say_nothing_about_boards() -> None:
    assert len(ALL) >= 89
    assert sum(unfit(vector.get("setup", {})) is not None for _, vector in ALL) == 5
