# SPDX-License-Identifier: Apache-2.0
"""Does the steps of tests/vectors/argo on connections; docs/reference/rings.md explains them.

What carries the calls is a `Carrier`: an endpoint is a connection of its own. A step that
none can express is skipped with its reason; where the rest of a vector stands on such a
step, that ends the vector.
"""

from __future__ import annotations

import contextlib
import errno
import struct
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from innkeeper.rings import ANY, Address, Flags, Rings

VECTORS = Path(__file__).parents[1] / "vectors" / "argo"
Table = dict[str, Any]
# What no connection can say, in the words of a step or a setup.
NO_CALLS = "a connection has requests and no numbers of operations"
NO_POINTER = "there is no reader's pointer: messages are taken"
NO_MAKING = "domains are guests; who makes two of one is told elsewhere"
DEAD = "its connection ended with the domain"
HIDES = "a keeper's refusals look like absence"
TOO_LONG = "messages of a connection have at most 1 MiB"
ALWAYS_ON = "a board that is off is no board"
FIXED = "a board's limits are fixed"
_UNREADABLE = 1 << 31
_PATIENCE_S = 20.0
_QUIET_PORT = 0xFFFFFFF0


class Skipped(Exception):
    """This step says nothing about a carrier."""


class Ended(Exception):
    """Neither does the rest of the vector."""


class Carrier(Protocol):
    """Domains whose programs connect."""

    def connect(self, domain: int) -> Rings:
        """A new program of a domain."""

    def create(self, domain: int) -> None:
        """A life of the domain begins."""

    def destroy(self, domain: int) -> None:
        """It ends, and all others know."""

    def set_policy(self, refuse: list[Table], *, mac_permissive: bool) -> Iterator[int]:
        """In force for one domain after the other, whose ids come."""


def load() -> list[tuple[str, Table]]:
    """All vectors, by file and name."""
    found: list[tuple[str, Table]] = []
    for path in sorted(VECTORS.glob("*.toml")):
        vectors = tomllib.loads(path.read_text())["vector"]
        found += [(f"{path.stem}: {vector['name']}", vector) for vector in vectors]
    return found


def unfit(setup: Table) -> str | None:
    """Why no carrier has such a setup."""
    if setup.get("availability", "on") != "on" or setup.get("without_rings"):
        return ALWAYS_ON
    return FIXED if "max_ring_bytes" in setup else None


def data_of(part: str | Table) -> bytes:
    if isinstance(part, str):
        return part.encode()
    count: int = part.get("fill", 0)
    return (bytes(range(251)) * (count // 251 + 1))[:count]


def number(word: str, turn: int) -> int:
    """A `+` behind it adds the number of the repetition."""
    return int(word.rstrip("+")) + (turn if word.endswith("+") else 0)


class Replay:
    """One vector on a carrier.

    :param ids: by the vector's ids, the carrier's; the same where left out.
    """

    def __init__(
        self, carrier: Carrier, setup: Table, *, ids: Mapping[int, int] | None = None
    ) -> None:
        self.carrier = carrier
        self.ids = ids or {}
        self.bind = setup.get("bind", True)
        self.refuse: list[Table] = setup.get("refuse", [])
        self.mac_permissive: bool = setup.get("mac_permissive", True)
        self.lives = dict.fromkeys(self.ids or range(1, setup.get("domains", 3) + 1), 1)
        self.endpoints: dict[str, Rings] = {}
        self.quiet: dict[int, tuple[Rings, int]] = {}
        # Arrivals are told once until the ring is read.
        self.told: set[str] = set()
        # What was made, and the request that takes it back.
        self.made: list[tuple[Rings, int, bytes]] = []
        # Events that came in the middle of a step.
        self.early: list[str] = []
        # Endpoints that were closed.
        self.gone: set[str] = set()
        self.skipped: list[str] = []

    def close(self) -> None:
        """All is as it was when this returns: a connection's end is noticed later."""
        for rings, kind, body in reversed(self.made):
            with contextlib.suppress(OSError, ValueError):
                rings._call(kind, body)
        for rings in [*self.endpoints.values(), *(one for one, _ in self.quiet.values())]:
            rings.close()

    def domain_of(self, word: str, turn: int = 0) -> int:
        """The carrier's id for a vector's word."""
        return ANY if word == "any" else self.ids.get(number(word, turn), number(word, turn))

    def address(self, word: str, turn: int = 0) -> tuple[int, int]:
        """(domain, port) for the carrier."""
        domain, _, port = word.partition(":")
        return self.domain_of(domain, turn), number(port, turn)

    def play(self, steps: list[Table]) -> None:
        """All steps; those that were skipped are in `skipped`."""
        for number, step in enumerate(steps, 1):
            try:
                self.step(step)
            except Skipped as reason:
                self.skipped.append(f"step {number} ({step['op']}): {reason}")
            except Ended as reason:
                self.skipped.append(f"from step {number} ({step['op']}) on: {reason}")
                return
            except AssertionError as failed:
                raise AssertionError(f"step {number}: {step}: {failed}") from failed

    def step(self, step: Table) -> None:
        if step.get("want") == "EACCES":
            raise Skipped(HIDES)
        wanted = step.get("want", 0)
        for turn in range(step.get("repeat", 1)):
            try:
                found: int | str = self.apply(step, turn)
            except OSError as failed:
                found = errno.errorcode[failed.errno or 0]
            assert found == (0 if wanted == "empty" else wanted), f"turn {turn} gave {found}"
        self.expect_events(step)

    def apply(self, step: Table, turn: int) -> int:
        done = getattr(self, "do_" + step["op"])(step, turn)
        return done if isinstance(done, int) else 0

    def caller(self, step: Table, domain: int) -> Rings:
        name = step.get("by", str(domain))
        if name.endswith("~") or (name in self.gone and step.get("want") == "ENODEV"):
            raise Skipped(DEAD)
        if name not in self.endpoints:
            self.endpoints[name] = self.carrier.connect(self.domain_of(name.rstrip("abc")))
        return self.endpoints[name]

    def ring(self, step: Table, turn: int = 0) -> tuple[Rings, int, int]:
        """Its reader, port and partner."""
        place, _, partner = step["ring"].partition("/")
        domain, _, port = place.partition(":")
        rings = self.caller(step, number(domain, turn))
        return rings, number(port, turn), self.domain_of(partner)

    def do_register(self, step: Table, turn: int) -> None:
        rings, port, partner = self.ring(step, turn)
        size, pad, flags = step["len"], step.get("pad", 0), step.get("flags", 0)
        pages = step.get("pages", -(-((size + 15 & ~15) + 64) // 4096))
        body = struct.pack("<IHHIII", port, partner, pad, size, pages, flags)
        self.made.append((rings, 3, body[:8]))
        rings._call(2, body)

    def do_unregister(self, step: Table, turn: int) -> None:
        rings, port, partner = self.ring(step, turn)
        rings._call(3, struct.pack("<IHH", port, partner, step.get("pad", 0)))

    def do_send(self, step: Table, turn: int) -> int:
        source, source_port = self.address(step["from"], turn)
        to, to_port = self.address(step["to"], turn)
        pieces = step.get("pieces", [])
        datas = [data_of(one) for one in pieces]
        if sum(map(len, datas)) > 1 << 20:
            raise Ended(TOO_LONG)
        # Beside `any` as the source stands who sends.
        sender = step["from"].partition(":")[0]
        rings = self.caller(step, 0 if sender == "any" else number(sender, turn))
        if self.bind and source_port:
            with contextlib.suppress(OSError):
                rings.bind(source_port)
                self.made.append((rings, 8, struct.pack("<I", source_port)))
        lengths = [
            len(data) if isinstance(piece, str) or "fill" in piece
            # 31 bits are there for it; each above 16 MiB means the same.
            else _UNREADABLE | min(piece["unreadable"], _UNREADABLE - 1)
            for piece, data in zip(pieces, datas, strict=True)
        ]  # fmt: skip
        pads = step.get("from_pad", 0), step.get("to_pad", 0)
        head = struct.pack("<IHHIHH", source_port, source, pads[0], to_port, to, pads[1])
        body = struct.pack(f"<{2 + len(pieces)}I", step.get("type", 0), len(pieces), *lengths)
        return rings._call(4, head, body, *datas)[0]

    def do_notify(self, step: Table, _turn: int) -> None:
        rings = self.caller(step, 0)
        entries = list(step.get("entries", []))
        if "entries_of" in step:
            entries += [step["entries_of"]] * step["entries_of"].get("count", 1)
        asked = [(Address(*self.address(one["ring"])), one["space"]) for one in entries]
        found = rings.notify(asked)
        for one, wanted in zip(found, entries, strict=True):
            flags = sum(Flags[name] for name in wanted["flags"])
            assert (one.flags, one.max_message_bytes) == (flags, wanted.get("max", 0)), wanted

    def do_receive(self, step: Table, _turn: int) -> None:
        rings, port, partner = self.ring(step)
        self.told = {one for one in self.told if f" {step['ring']} " not in one}
        if "message" not in step:
            found = rings.receive(port, partner, wake=False)
            assert not found, found
            return
        wanted = step["message"]
        data = b"".join(map(data_of, wanted["pieces"]))
        room = 16 + (len(data) + 15 & ~15)
        body = struct.pack("<IHHII", port, partner, 0, room, 0)
        count, slots = rings._call(6, body)
        assert (count, len(slots)) == (1, room)
        length, source_port, source, pad, kind = struct.unpack_from("<IIHHI", slots)
        assert (source, source_port) == self.address(wanted["from"])
        assert (length, pad, kind) == (16 + len(data), 0, wanted.get("type", 0))
        assert slots[16:] == data.ljust(room - 16, b"\0")
        assert self.ids or slots.hex().startswith(wanted.get("slots", ""))

    def do_discard(self, step: Table, _turn: int) -> None:
        if step.get("want"):
            raise Skipped(NO_POINTER)
        rings, port, partner = self.ring(step)
        self.told = {one for one in self.told if f" {step['ring']} " not in one}
        if step["bytes"]:
            body = struct.pack("<IHHII", port, partner, 0, step["bytes"], 0)
            _, slots = rings._call(6, body)
            assert len(slots) == step["bytes"]

    def do_call(self, _step: Table, _turn: int) -> None:
        raise Skipped(NO_CALLS)

    def do_bind(self, step: Table, _turn: int) -> None:
        rings = self.caller(step, 0)
        rings.bind(step["port"])
        self.made.append((rings, 8, struct.pack("<I", step["port"])))

    def do_unbind(self, step: Table, _turn: int) -> None:
        self.caller(step, 0).unbind(step["port"])

    def do_close(self, step: Table, _turn: int) -> None:
        self.caller(step, 0).close()
        del self.endpoints[step["by"]]
        self.gone.add(step["by"])

    def do_create(self, step: Table, _turn: int) -> None:
        if step.get("want") or step["id"] in self.lives:
            raise Skipped(NO_MAKING)
        if step["id"] > max(self.lives, default=0) + 3:
            raise Ended(NO_MAKING)
        self.carrier.create(step["id"])
        self.lives[step["id"]] = 1

    def do_destroy(self, step: Table, _turn: int) -> None:
        domain = step["id"]
        for name in [one for one in self.endpoints if one.rstrip("abc") == str(domain)]:
            self.endpoints.pop(name).close()
        if domain in self.quiet:
            self.quiet.pop(domain)[0].close()
        self.carrier.destroy(domain)
        del self.lives[domain]

    def do_policy(self, step: Table, _turn: int) -> None:
        self.refuse = step.get("refuse", self.refuse)
        self.mac_permissive = step.get("mac_permissive", self.mac_permissive)
        for _ in self.carrier.set_policy(self.refuse, mac_permissive=self.mac_permissive):
            # The keeper of a waiter that is cut, too, tells it, in the waiter's own name.
            self.early = self.happened()

    def expect_events(self, step: Table) -> None:
        """Those of the step came, and besides arrivals no others."""
        wanted = Counter(one for one in step.get("events", []) if not one.startswith("arrival"))
        arrivals = [one for one in step.get("events", []) if one.startswith("arrival")]
        found: Counter[str] = Counter()
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            found.update(self.happened())
            missing = wanted - found
            late = [one for one in arrivals if one not in self.told]
            if not missing and not late:
                break
            assert time.monotonic() < deadline, f"missing {missing} {late}, found {found}"
        assert found == wanted

    def happened(self) -> list[str]:
        """The events until now, but arrivals, which go to `told`."""
        self.settle()
        found, self.early = self.early, []
        names = {real: one for one, real in self.ids.items()}
        for name, rings in self.endpoints.items():
            for event in rings.events():
                partner = "any" if event.partner == ANY else names.get(event.partner, event.partner)
                owner = names.get(event.owner, event.owner)
                line = f"{event.what} {owner}:{event.port}/{partner} to {name}"
                if event.what == "arrival":
                    self.told.add(line)
                else:
                    found.append(line)
        return found

    def settle(self) -> None:
        """Have what happened reach the sockets: answers come behind earlier events."""
        for domain in self.lives:
            if domain not in self.quiet:
                rings = self.carrier.connect(self.ids.get(domain, domain))
                self.quiet[domain] = rings, rings.bind()
            rings, port = self.quiet[domain]
            for other in self.lives:
                with contextlib.suppress(OSError):
                    rings.sendv((ANY, port), (self.ids.get(other, other), _QUIET_PORT), [])
        for rings in self.endpoints.values():
            with contextlib.suppress(OSError):
                rings.unbind(_QUIET_PORT)
