# SPDX-License-Identifier: Apache-2.0
"""The rings of two guests as their keepers open them, with programs in place of guests."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from innkeeper._core import RingBoard
from innkeeper.keeper.audit import Audit
from innkeeper.keeper.rings import Rings as Carrier
from innkeeper.model.policy import Policy, Rule
from innkeeper.registry.layout import Layout
from innkeeper.rings import ANY, Rings
from innkeeper.switchboard.rings import RingRules
from innkeeper.system.sockets import listen_unix

CIDS = {"a": 1024, "b": 1025}
ALLOW = Policy(
    (
        Rule(
            number=1,
            line=9,
            source="a",
            destination="b",
            operations=("register-single", "send", "query", "notify"),
            log=True,
        ),
    )
)
SILENT = Policy()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    for name in CIDS:
        (tmp_path / name).mkdir()
    return Layout(runtime_dir=str(tmp_path), cache_dir="/c", state_dir="/s")


@pytest.fixture
def run() -> Iterator[Callable[..., object]]:
    """Calls in a loop that is not running, where keepers add readers."""
    loop = asyncio.new_event_loop()

    async def call(what: Callable[..., object], *args: object, **values: object) -> object:
        return what(*args, **values)

    yield lambda what, *args, **values: loop.run_until_complete(call(what, *args, **values))
    loop.close()


@pytest.fixture
def carriers(layout: Layout, run: Callable[..., object]) -> Iterator[dict[str, Carrier]]:
    audits = {name: Audit(Path(layout.runtime_dir, f"{name}.log")) for name in CIDS}
    found = {name: Carrier(layout, name, cid, audits[name]) for name, cid in CIDS.items()}
    for one in found.values():
        run(one.apply, ALLOW, CIDS, mac_permissive=False)
    yield found
    for name, one in found.items():
        run(one.close)
        audits[name].close()


def audit(layout: Layout, name: str) -> list[dict[str, object]]:
    path = Path(layout.runtime_dir, f"{name}.log")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_message_is_carried_and_told_on_both_sides(
    layout: Layout, carriers: dict[str, Carrier], run: Callable[..., object]
) -> None:
    with (
        Rings.open(layout.guest("a").guest_rings) as sender,
        Rings.open(layout.guest("b").guest_rings) as receiver,
    ):
        receiver.register(80, CIDS["a"])
        port = sender.bind()
        sender.send(port, (CIDS["b"], 80), b"ding")
        (message,) = receiver.receive(80, CIDS["a"])
        assert (message.sender, message.data) == ((CIDS["a"], port), b"ding")
    for name, one in carriers.items():
        run(one.note_decisions)
        told = audit(layout, name)[-1]
        assert (told["verdict"], told["operation"], told["port"]) == ("allowed", "send", 80)
        assert (told["source"], told["destination"], told["rule"], told["line"]) == ("a", "b", 1, 9)
        other = CIDS["b" if name == "a" else "a"]
        assert told["peer_cid"] == other


def test_a_new_policy_closes_the_links(
    layout: Layout, carriers: dict[str, Carrier], run: Callable[..., object]
) -> None:
    link = layout.guest("b").ring_link(CIDS["a"])
    assert link.exists()
    with Rings.open(layout.guest("b").guest_rings) as receiver:
        receiver.register(80, CIDS["a"])
        run(carriers["b"].apply, SILENT, CIDS, mac_permissive=False)
        assert not link.exists()
        with pytest.raises(ProcessLookupError):
            receiver.register(80, CIDS["a"])
    run(carriers["b"].note_decisions)
    verdicts = [(one["verdict"], one["rule"]) for one in audit(layout, "b")]
    # What was cut is told with the rules that cut it.
    assert verdicts == [("allowed", 1), ("cut", None), ("denied", None)]


def test_wildcard_rings_follow_the_switch(
    layout: Layout, carriers: dict[str, Carrier], run: Callable[..., object]
) -> None:
    with Rings.open(layout.guest("a").rings) as host:
        with pytest.raises(PermissionError):
            host.register(5, ANY)
        run(carriers["a"].apply, ALLOW, CIDS, mac_permissive=True)
        host.register(5, ANY)


def test_nothing_stays_behind(
    layout: Layout, carriers: dict[str, Carrier], run: Callable[..., object]
) -> None:
    folder = layout.guest("a")
    assert folder.guest_rings.exists()
    run(carriers["a"].close)
    run(carriers["a"].close)
    assert list(folder.path.iterdir()) == []


def test_a_cid_that_is_no_domain_has_no_rings(layout: Layout, run: Callable[..., object]) -> None:
    one = Carrier(layout, "a", 0x7FF0, None)
    run(one.apply, ALLOW, CIDS, mac_permissive=True)
    assert not layout.guest("a").guest_rings.exists()
    run(one.close)


def test_the_board_owns_what_it_is_given(tmp_path: Path) -> None:
    rules = RingRules(rows=(), guest_any=(), host_any=(), mac_permissive=False).native()
    fds = [listen_unix(tmp_path / name).detach() for name in ("guest", "host")]
    with pytest.raises(ValueError, match="no id"):
        RingBoard(guest=0, guest_fd=fds[0], host_fd=fds[1], rules=rules)
    for fd in fds:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)
    with pytest.raises(OSError, match="guest"):
        RingBoard(guest=1, guest_fd=os.open("/dev/null", 0), host_fd=os.dup(1), rules=rules)
    fds = [listen_unix(tmp_path / name).detach() for name in ("g", "h")]
    board = RingBoard(guest=1, guest_fd=fds[0], host_fd=fds[1], rules=rules)
    board.close()
    board.close()
    with pytest.raises(OSError, match="closed"):
        board.set_rules(rules)
